"""The first picture of a GIF, with TensorFlow's operations, so that it can be exported.

TensorFlow decodes all pictures of a GIF before one can take the first: memory for each as large as
the first, however small its file is, and a crash of the process beyond 2 GiB.
"""

from common import limits
from common.runtime import tf

_SIGNATURE, _HEADER, _PICTURE_HEADER = 6, 13, 10
_COLOR_TABLE, _EXTENSION, _PICTURE, _END = 0x80, 0x21, 0x2C, b"\x3b"
# 2 to the power of these is how many there may be in a row; blocks are of up to 255 bytes.
_BLOCKS, _EXTENSIONS = 16, 4


def first_picture(encoded: tf.Tensor) -> tf.Tensor:
    """Cuts a GIF off behind its first picture.

    Args:
        encoded: string [], a GIF, which may be damaged.

    Returns:
        string []; a GIF without pictures if there is no first one within `limits`.
    """
    data = tf.decode_raw(tf.strings.substr(encoded, 0, limits.GIF_BYTES), tf.uint8)
    size = tf.size(data)
    # A 0 behind the end, which ends all that is there.
    data = tf.concat([tf.cast(data, tf.int32), [0]], axis=0)
    place = tf.range(size + 1)
    # From each place: where one is behind all blocks that follow, and then, behind all extensions.
    # There are no loops, which fail now and then in the functions of a data set.
    to_block = tf.where(data > 0, tf.minimum(place + 1 + data, size), place)
    behind_blocks = _repeated(to_block, _BLOCKS)
    behind_one = tf.minimum(_at(behind_blocks, tf.minimum(place + 2, size)) + 1, size)
    is_extension = tf.equal(data, _EXTENSION)
    behind_extensions = _repeated(tf.where(is_extension, behind_one, place), _EXTENSIONS)

    def behind_color_table(position, flags):
        colors = tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(flags, 7))
        return tf.minimum(position + tf.where(flags >= _COLOR_TABLE, 3 * colors, 0), size)

    flags = _at(data, tf.minimum(_HEADER - 3, size))
    begin = _at(behind_extensions, behind_color_table(_HEADER, flags))
    header = _at(data, tf.minimum(begin + tf.range(_PICTURE_HEADER), size))
    kind, _, _, _, _, *numbers, flags = tf.unstack(tf.cast(header, tf.int64))
    width, height = numbers[0] + 256 * numbers[1], numbers[2] + 256 * numbers[3]
    # Before the blocks is the size of their codes.
    colors_end = behind_color_table(begin + _PICTURE_HEADER, tf.cast(flags, tf.int32))
    end = _at(behind_blocks, tf.minimum(colors_end + 1, size))
    is_there = tf.equal(kind, _PICTURE) & (width * height <= limits.IMAGE_PIXELS)
    is_there &= tf.equal(_at(data, end), 0)
    length = tf.minimum(tf.where(is_there, end + 1, _SIGNATURE), size)
    return tf.strings.substr(encoded, 0, length) + _END


def _at(data: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """`tf.gather` of a vector, in one operation instead of two."""
    return tf.raw_ops.Gather(params=data, indices=position)


def _repeated(step: tf.Tensor, doublings: int) -> tf.Tensor:
    """Where so many steps lead from each place.

    Args:
        step: int32 [places], where one step leads.
        doublings: 2 to the power of this is the number of steps.
    """
    for _ in range(doublings):
        step = _at(step, step)
    return step
