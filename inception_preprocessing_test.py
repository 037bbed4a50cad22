"""Tests of preprocessing: formats, evaluation's pixels, and the statistics of the distortions."""

import io
import struct
import sys

import numpy as np
import pytest
from helpers import encode
from PIL import Image
from scipy import stats
from sklearn.datasets import load_sample_images

import common.data
import inception_preprocessing
from common.data import image_files
from common.runtime import tf
from scripts.benchmarks import benchmark_input
from scripts.docs import augmentation_sheet

SIZE = 64


def _photo(mode="RGB", size=(250, 188)):
    return Image.fromarray(load_sample_images().images[0]).resize(size).convert(mode)


def _run(function, encoded, runs=1):
    """Results of `function` of an encoded image, with the same random numbers each time."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        placeholder = tf.placeholder(tf.string, [])
        result = function(placeholder)
        return [session.run(result, {placeholder: encoded}) for _ in range(runs)]


# Formats -----------------------------------------------------------------------------------------

GREY_16_BITS = Image.fromarray(np.asarray(_photo("L")).astype(np.uint16) * 257)
LOSSLESS = {
    "PNG": encode(_photo(), "PNG"),
    "grey PNG": encode(_photo("L"), "PNG"),
    "grey PNG with alpha": encode(_photo("LA"), "PNG"),
    "PNG with alpha": encode(_photo("RGBA"), "PNG"),
    "PNG with palette": encode(_photo("P"), "PNG"),
    "GIF": encode(_photo("P"), "GIF"),
    "moving GIF": encode(_photo("P"), "GIF", save_all=True, append_images=[_photo("P").rotate(9)]),
    "BMP": encode(_photo(), "BMP"),
    "grey BMP": encode(_photo("L"), "BMP"),
    "BMP with alpha": encode(_photo("RGBA"), "BMP"),
}
JPEGS = {
    "JPEG": encode(_photo(), quality=95),
    "JPEG with full chroma": encode(_photo(), subsampling=0),
    "progressive JPEG": encode(_photo(), progressive=True),
    "grey JPEG": encode(_photo("L")),
    "CMYK JPEG": encode(_photo("CMYK")),
    "odd JPEG": encode(_photo(size=(101, 67))),
    "JPEG with a tail": encode(_photo()) + b"tail",
    "small JPEG": encode(_photo(size=(5, 3))),
    "one pixel": encode(_photo(size=(1, 1))),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats(kind):
    encoded = LOSSLESS[kind]
    pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    (got,) = _run(lambda e: inception_preprocessing.preprocess_bytes(e, SIZE), encoded)
    (expected,) = _run(lambda _: inception_preprocessing.preprocess_image(pixels, SIZE, SIZE), b"")
    assert got.shape == (SIZE, SIZE, 3) and got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)


def _fading(mode):
    """A photograph that fades from left to right."""
    image = _photo("RGBA")
    image.putalpha(Image.linear_gradient("L").rotate(90).resize(image.size))
    return image.convert(mode)


@pytest.mark.parametrize(
    "encoded",
    [
        encode(_fading("RGBA"), "PNG"),
        encode(_fading("LA"), "PNG"),
        encode(_photo("P"), "PNG", transparency=bytes(range(256))),
        encode(_photo("L"), "PNG", transparency=200),
    ],
    ids=["colours", "grey", "palette", "one grey"],
)
def test_transparent_png_is_on_white_as_in_converted_data(encoded):
    converted = np.asarray(image_files.to_rgb(Image.open(io.BytesIO(encoded))))
    plain = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    assert (converted != plain).any()
    (found,) = _run(inception_preprocessing.decode_whole, encoded)
    assert np.abs(found.astype(int) - converted).max() <= 1


def test_png_of_16_bits():
    encoded = encode(GREY_16_BITS, "PNG")
    got, expected = (
        _run(lambda e: inception_preprocessing.preprocess_bytes(e, SIZE), image)[0]
        for image in (encoded, LOSSLESS["grey PNG"])
    )
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg_differs_from_whole_decoding_by_less_than_a_grey_level(kind):
    def both(encoded):
        whole = tf.image.decode_jpeg(encoded, channels=3)
        return (
            inception_preprocessing.preprocess_bytes(encoded, SIZE, scaled_images=False),
            inception_preprocessing.preprocess_image(whole, SIZE, SIZE, scaled_images=False),
        )

    ((got, expected),) = _run(both, JPEGS[kind])
    assert got.shape == (SIZE, SIZE, 3)
    assert np.abs(got - expected).mean() < 0.1 / 255.0


@pytest.mark.parametrize("kind", [*JPEGS, "PNG", "GIF"])
@pytest.mark.parametrize("fast", [True, False])
def test_training_versions(kind, fast):
    versions = _run(
        lambda e: inception_preprocessing.preprocess_bytes(
            e, SIZE, is_training=True, use_fast_color_distort=fast
        ),
        {**JPEGS, **LOSSLESS}[kind],
        runs=3,
    )
    for version in versions:
        assert version.shape == (SIZE, SIZE, 3)
        assert version.min() >= -1.0 and version.max() <= 1.0
    assert not np.array_equal(versions[0], versions[1])


def test_slow_distortion_changes_contrast():
    """Neither brightness nor saturation changes the difference of two grey pixels."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        grey = tf.constant(np.full([1, 2, 3], 0.45, np.float32) + [[[0.0], [0.1]]], tf.float32)
        pixels = inception_preprocessing.distort_color(grey)[0, :, 0]
        factors = [np.diff(session.run(pixels))[0] / 0.1 for _ in range(20)]
    assert min(factors) < 0.9 and max(factors) > 1.1
    assert all(0.49 < factor < 1.51 for factor in factors)


def _huge_progressive_jpeg() -> bytes:
    data = bytearray(encode(_photo(), progressive=True))
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


DAMAGED = {
    "cut JPEG": encode(_photo())[:-900],
    "JPEG without its end": encode(_photo())[:-2],
    "cut PNG": encode(_photo(), "PNG")[:-900],
    "JPEG of noise": b"\xff\xd8\xff" + b"\x80" * 99 + b"\xff\xd9",
    "start of a BMP": b"BM\xff\xfe",
    "text": b"text",
    "progressive JPEG of 4 billion pixels": _huge_progressive_jpeg(),
    # TensorFlow crashes where its message quotes this.
    "not UTF-8": b"\xff",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_images_are_errors(kind):
    with pytest.raises(tf.errors.InvalidArgumentError):
        _run(lambda e: inception_preprocessing.preprocess_bytes(e, SIZE), DAMAGED[kind])


def test_central_window_is_that_of_central_crop():
    for size in range(1, 2000):
        assert size // inception_preprocessing._CENTRAL_MARGIN == int((size - size * 0.875) / 2)
    with tf.Graph().as_default(), tf.Session() as session:
        image = np.arange(101 * 67).reshape(101, 67, 1)
        top, left, height, width = session.run(
            inception_preprocessing.central_window(tf.constant(image.shape))
        )
        expected = session.run(tf.image.central_crop(tf.constant(image), 0.875))
        np.testing.assert_array_equal(image[top : top + height, left : left + width], expected)


# One pass for all -------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("size", [(280, 340), (100, 33), (7, 90), (64, 48), (1, 1)])
def test_one_pass_distorts_as_tensorflows_operations(size, scaled, monkeypatch):
    image = np.random.RandomState(0).randint(0, 256, (*size, 3), np.uint8)

    def versions():
        with tf.Graph().as_default(), tf.Session() as session:
            tf.set_random_seed(3)
            version = inception_preprocessing.preprocess_image(
                tf.constant(image), 64, 48, is_training=True, scaled_images=scaled
            )
            operations = {operation.type for operation in session.graph.get_operations()}
            return np.array([session.run(version) for _ in range(8)]), operations

    compiled, operations = versions()
    assert "ResizeBilinear" not in operations
    monkeypatch.setattr(inception_preprocessing, "_fused_distortion", lambda: None)
    expected, operations = versions()
    assert "ResizeBilinear" in operations
    np.testing.assert_allclose(compiled, expected, atol=1e-6)
    if size != (1, 1):
        assert compiled.max() == 1.0 and compiled.min() == (-1.0 if scaled else 0.0)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("size", [(280, 340), (7, 90), (1, 1)])
def test_one_pass_evaluates_as_tensorflows_operations(size, scaled):
    image = np.random.RandomState(0).randint(0, 256, (*size, 3), np.uint8)

    def versions(_):
        return [
            inception_preprocessing.preprocess_image(
                tf.constant(image), 64, 48, scaled_images=scaled, exportable=exportable
            )
            for exportable in (True, False)
        ]

    ((expected, found),) = _run(versions, b"")
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_exports_need_no_python():
    with tf.Graph().as_default() as graph:
        inception_preprocessing.preprocess_bytes(tf.constant(b""), SIZE)
        assert "PyFunc" not in {operation.type for operation in graph.get_operations()}
        inception_preprocessing.preprocess_bytes(tf.constant(b""), SIZE, exportable=False)
        assert "PyFunc" in {operation.type for operation in graph.get_operations()}


def test_without_numba_tensorflows_operations_do_it(monkeypatch):
    def version():
        def preprocess(encoded):
            return inception_preprocessing.preprocess_bytes(encoded, SIZE, is_training=True)

        return _run(preprocess, JPEGS["JPEG"])[0]

    expected = version()
    assert inception_preprocessing._fused_distortion()
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "common.data.fused_distortion", raising=False)
    monkeypatch.delattr(common.data, "fused_distortion", raising=False)
    inception_preprocessing._fused_distortion.cache_clear()
    try:
        found = version()
        assert inception_preprocessing._fused_distortion() is None
    finally:
        inception_preprocessing._fused_distortion.cache_clear()
    np.testing.assert_allclose(found, expected, atol=1e-6)


# Statistics --------------------------------------------------------------------------------------

WIDTH, HEIGHT = 200, 150
SAMPLES = 3000
LOW, HIGH = 51, 204  # No shift of colours goes beyond what can be seen.


def _ramps() -> bytes:
    """Red grows to the right, green downwards; blue is even, and shows the shift of brightness."""
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    image[:, :, 0] = np.round(np.linspace(LOW, HIGH, WIDTH))
    image[:, :, 1] = np.round(np.linspace(LOW, HIGH, HEIGHT))[:, np.newaxis]
    return encode(Image.fromarray(image), quality=100, subsampling=0)


def _even() -> bytes:
    return encode(Image.new("RGB", (WIDTH, HEIGHT), (128, 128, 128)), quality=100)


def _samples(preprocess, encoded, seed, size=16) -> np.ndarray:
    """Training versions in [0, 1]: [SAMPLES, size, size, 3]."""
    with tf.Graph().as_default(), tf.Session() as session:
        dataset = tf.data.Dataset.from_tensors(encoded).repeat(SAMPLES)

        def seeded(image):
            tf.set_random_seed(seed)
            return preprocess(image, size)

        batch = dataset.map(seeded).batch(SAMPLES)
        iterator = tf.data.make_initializable_iterator(batch)
        session.run(iterator.initializer)
        return session.run(iterator.get_next()) / 2.0 + 0.5


def _fast(image, size, chroma):
    return inception_preprocessing.preprocess_bytes(
        image, size, True, cb_distortion_range=chroma, cr_distortion_range=chroma
    )


def _naive(image, size, chroma):
    image = tf.image.decode_jpeg(image, channels=3)
    return benchmark_input.naive_preprocessing(image, size, True, chroma)


def _geometry(images):
    """What was cut out, in parts of the image, from what has become of the ramps."""
    brightness = images[:, :, :, 2].mean(axis=(1, 2)) - 128 / 255.0
    columns = images[:, :, :, 0].mean(axis=1) - brightness[:, np.newaxis]
    rows = images[:, :, :, 1].mean(axis=2) - brightness[:, np.newaxis]
    steps = np.arange(columns.shape[1]) / columns.shape[1]
    (slope_x, start_x), (slope_y, start_y) = (np.polyfit(steps, c.T, 1) for c in (columns, rows))
    flipped = slope_x < 0
    start_x = np.where(flipped, start_x + slope_x * steps[-1], start_x)
    width, height = ((s * 255.0 / (HIGH - LOW)) for s in (np.abs(slope_x), slope_y))
    left, top = ((s * 255.0 - LOW) / (HIGH - LOW) for s in (start_x, start_y))
    return {
        "horizontal position": left + width / 2,
        "vertical position": top + height / 2,
        "area": width * height,
        "aspect": np.log(width * WIDTH / (height * HEIGHT)),
        "flip": flipped.astype(float),
        "brightness": brightness,
    }


def _colors(images):
    """The shifts of an even image's colours."""
    red, green, blue = (images.mean(axis=(1, 2)) - 128 / 255.0).T
    to_rgb = [[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]]
    return dict(zip(("brightness", "Cb", "Cr"), np.linalg.solve(to_rgb, [red, green, blue])))


@pytest.mark.parametrize(
    "image, chroma, measure", [(_ramps, 0.0, _geometry), (_even, 0.1, _colors)]
)
def test_distortions_are_distributed_as_the_naive_pipelines(image, chroma, measure):
    encoded = image()
    fast, naive = (
        measure(_samples(lambda e, size, f=f: f(e, size, chroma), encoded, seed))
        for f, seed in ((_fast, 11), (_naive, 12))
    )
    for name in fast:
        assert stats.ks_2samp(fast[name], naive[name]).pvalue > 0.001, name
        spread = naive[name].std()
        error = spread / np.sqrt(SAMPLES / 2)
        assert abs(fast[name].mean() - naive[name].mean()) < 4 * error, name
        assert 0.9 < fast[name].std() / spread < 1.1, name
    if "flip" in fast:
        assert fast["flip"].mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(SAMPLES))
        assert 0.08 < fast["area"].min() < 0.15 and 0.95 < fast["area"].max() < 1.02
        assert np.abs(fast["aspect"]).max() < np.log(4 / 3) + 0.05
    assert np.abs(fast["brightness"]).max() == pytest.approx(32 / 255.0, rel=0.05)
    if "Cb" in fast:
        for name in ("Cb", "Cr"):
            assert np.abs(fast[name]).max() == pytest.approx(0.1, rel=0.1)


# Augmentation sheet ------------------------------------------------------------------------------


def test_augmentation_sheet():
    images = [JPEGS["JPEG"], LOSSLESS["PNG"]]
    sheet = augmentation_sheet.make_sheet(images, size=32, versions=3, seed=1)
    assert sheet.shape == (2 * 36, 5 * 36, 3) and sheet.dtype == np.uint8
    same = augmentation_sheet.make_sheet(images, size=32, versions=3, seed=1)
    np.testing.assert_array_equal(sheet, same)
    cells = [sheet[:32, i : i + 32] for i in range(0, 5 * 36, 36)]
    assert all(cell.std() > 10 for cell in cells)
    assert len({cell.tobytes() for cell in cells}) == 5
