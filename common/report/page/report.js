"use strict";
(function () {
  // Tables whose headers are buttons are sorted by them.
  function sortBy(header) {
    var table = header.closest("table"), column = header.cellIndex, body = table.tBodies[0];
    var numbers = header.classList.contains("number");
    var descending = header.getAttribute("aria-sort") === "none"
      ? numbers : header.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th[aria-sort]").forEach(function (other) {
      other.setAttribute("aria-sort", "none");
    });
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    function key(row) {
      var cell = row.cells[column];
      return numbers ? parseFloat(cell.dataset.value) : cell.textContent.trim();
    }
    function compare(a, b) {
      if (!numbers) return (descending ? -1 : 1) * a.key.localeCompare(b.key, undefined, { numeric: true });
      // What there is no number for comes last.
      if (isNaN(a.key) || isNaN(b.key)) return isNaN(a.key) - isNaN(b.key);
      return descending ? b.key - a.key : a.key - b.key;
    }
    var rows = Array.from(body.rows, function (row) { return { key: key(row), row: row }; });
    rows.sort(compare).forEach(function (item) { body.appendChild(item.row); });
  }
  document.querySelectorAll("th[aria-sort] button").forEach(function (button) {
    button.addEventListener("click", function () { sortBy(button.closest("th")); });
  });

  function words(text) { return text.toLowerCase().split(/\s+/).filter(Boolean); }
  function matches(text, wanted) {
    return wanted.every(function (word) { return text.indexOf(word) >= 0; });
  }
  function say(input, shown, all) {
    document.getElementById(input.dataset.count).textContent = shown === all
      ? all.toLocaleString() + " rows" : shown.toLocaleString() + " of " + all.toLocaleString() + " rows";
  }

  // Search boxes hide the rows of their table.
  document.querySelectorAll("input[data-table]").forEach(function (input) {
    var rows = Array.from(document.getElementById(input.dataset.table).tBodies[0].rows);
    var texts = rows.map(function (row) { return row.textContent.toLowerCase(); });
    function filter() {
      var wanted = words(input.value), shown = 0;
      rows.forEach(function (row, i) {
        row.hidden = !matches(texts[i], wanted);
        shown += row.hidden ? 0 : 1;
      });
      say(input, shown, rows.length);
    }
    input.addEventListener("input", filter);
    filter();
  });

  // Of the confusions, which may be very many, only the first that match are in the table.
  var search = document.getElementById("confusion-search");
  if (search) {
    var data = JSON.parse(document.getElementById("confusion-data").textContent);
    var lowered = data.names.map(function (name) { return name.toLowerCase(); });
    var body = document.getElementById("confusion-table").tBodies[0];
    var most = Number(search.dataset.most);
    var cell = function (row, text, kind) {
      var added = row.insertCell();
      added.textContent = text;
      added.className = kind;
    };
    var show = function () {
      var wanted = words(search.value), found = 0;
      body.textContent = "";
      data.confusions.forEach(function (one) {
        if (!matches(lowered[one[0]] + " " + lowered[one[1]], wanted)) return;
        found += 1;
        if (found > most) return;
        var row = body.insertRow();
        cell(row, data.names[one[0]], "name");
        cell(row, data.names[one[1]], "name");
        cell(row, one[2].toLocaleString(), "number");
        cell(row, (100 * one[2] / data.images[one[0]]).toFixed(1) + "%", "number");
      });
      say(search, Math.min(found, most), found);
    };
    search.addEventListener("input", show);
    show();
  }
})();
