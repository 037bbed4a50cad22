"""Prints the figures of a training as the ModelZoo's harness reads them, and writes its files.

The training scripts call it; all figures are those of the training's own results.json:

    python scripts/modelzoo_report.py --model_dir=MODEL --output_dir=output/0 --network=NAME \
        --case_name=CASE --rank_size=1 --batch_size=64 --start=1600000000 --seconds=3600
"""

import argparse
import datetime
import json
import os
import platform
import sys

NOT_MEASURED = "NA"


def main(argv=None):
    arguments = parse_arguments(argv)
    records = read_records(os.path.join(arguments.model_dir, "results.json"))
    trainings = [r for r in records if r["kind"] == "train"]
    if not trainings:
        sys.exit(f"modelzoo_report.py: results.json in {arguments.model_dir} tells of no training.")
    if not any(_seconds(r["time"]) >= arguments.start for r in trainings):
        print("Training had finished before: the speed and the loss are those of that run.")
    figures = collect_figures(records)
    for directory in set(arguments.output_dir):
        write_case_log(directory, arguments, figures)
        write_losses(directory, arguments, trainings)
    print_figures(arguments, figures)


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model_dir", "network", "case_name"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--output_dir", required=True, action="append", help="can be repeated")
    for name in ("rank_size", "batch_size", "start", "seconds"):
        parser.add_argument(f"--{name}", required=True, type=int)
    return parser.parse_args(argv)


def read_records(path: str):
    """The list in results.json; ends the program where there is none."""
    try:
        with open(path) as f:
            return json.load(f)
    except (OSError, ValueError) as error:
        sys.exit(f"modelzoo_report.py: {path} cannot be read: {error}")


def collect_figures(records):
    """Figures by name, as text: speed of the last measured training, the last loss and accuracy."""
    trainings = [r for r in records if r["kind"] == "train"]
    measured = [r for r in trainings if r["images_per_second"]]
    evaluations = [r for r in records if r["kind"] == "eval"]
    speed = measured[-1] if measured else None
    accuracy = evaluations[-1]["metrics"] if evaluations else {}
    return {
        "images_per_second": _text(speed and speed["images_per_second"]["median"]),
        "seconds_per_step": _text(speed and speed["seconds_per_step"]),
        "milliseconds_per_step": _text(speed and 1000 * speed["seconds_per_step"]),
        "top_1": _text(accuracy.get("top_1_accuracy")),
        "top_5": _text(accuracy.get("top_5_accuracy")),
        "loss": _text(trainings[-1]["metrics"]["loss"]),
    }


def write_case_log(directory, arguments, figures):
    lines = {
        "Network": arguments.network,
        "RankSize": arguments.rank_size,
        "BatchSize": arguments.batch_size,
        "DeviceType": platform.machine(),
        "CaseName": arguments.case_name,
        "ActualFPS": figures["images_per_second"],
        "TrainingTime": figures["milliseconds_per_step"],
        "TrainAccuracy": figures["top_1"],
        "ActualLoss": figures["loss"],
        "E2ETrainingTime": arguments.seconds,
        "Top1Accuracy": figures["top_1"],
        "Top5Accuracy": figures["top_5"],
    }
    with open(os.path.join(directory, f"{arguments.case_name}.log"), "w") as f:
        f.writelines(f"{key} = {value}\n" for key, value in lines.items())


def write_losses(directory, arguments, trainings):
    """One loss a line, oldest first, over all runs of the model directory."""
    name = f"train_{arguments.case_name}_loss.txt"
    with open(os.path.join(directory, name), "w") as f:
        for record in trainings:
            f.writelines(f"{_text(loss)}\n" for _, loss in record.get("losses", []))


def print_figures(arguments, figures):
    print(f"Top-1 Accuracy : {figures['top_1']}")
    print(f"Top-5 Accuracy : {figures['top_5']}")
    print("------------------ Final result ------------------")
    print(f"Final Performance images/sec : {figures['images_per_second']}")
    print(f"Final Performance sec/step : {figures['seconds_per_step']}")
    print(f"Final Train Accuracy : {figures['top_1']}")
    print(f"E2E Training Duration sec : {arguments.seconds}")


def _text(number) -> str:
    return NOT_MEASURED if number is None else format(number, ".7g")


def _seconds(iso_time: str) -> float:
    return datetime.datetime.fromisoformat(iso_time).timestamp()


if __name__ == "__main__":
    main()
