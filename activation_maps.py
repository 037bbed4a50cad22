"""Where in an image the network sees a class: class activation maps.

Zhou et al. 2016, "Learning Deep Features for Discriminative Localization" (arXiv 1512.04150). The
last layers are a mean over the image and a linear classifier, so that the maps are exact: what the
classifier makes of a single position, whose mean over all positions is the logit but for the bias.
"""

from typing import Dict

import model_builder
from common.hparams import HParams
from common.runtime import tf

# Classes that an answer explains, the most probable ones.
TOP_K = 5


def class_activation_maps(
    feature_maps: tf.Tensor, weights: tf.Tensor, classes: tf.Tensor, data_format: str = "NHWC"
) -> tf.Tensor:
    """The maps of some classes of each image.

    Args:
        feature_maps: [batch, height, width, features], which the global average pool takes;
            [batch, features, height, width] if `data_format` is 'NCHW'.
        weights: [features, classes] of the classifier.
        classes: integers [batch, k].

    Returns:
        float32 [batch, k, height, width]. The mean of a map and the bias of its class add up to
        the logit.
    """
    if data_format == "NHWC":
        feature_maps = tf.transpose(feature_maps, [0, 3, 1, 2])
    features, height, width = feature_maps.shape.as_list()[1:]
    flat = tf.reshape(feature_maps, [-1, features, height * width])
    weights_of_classes = tf.gather(tf.transpose(weights), classes)
    maps = tf.matmul(weights_of_classes, flat)
    return tf.reshape(maps, [-1, classes.shape[1].value, height, width])


def maps_of(end_points: Dict[str, tf.Tensor], classes: tf.Tensor, hparams: HParams) -> tf.Tensor:
    """`class_activation_maps` of the network in the graph, given its end points."""
    return class_activation_maps(
        end_points["feature_maps"],
        model_builder.classifier_weights(),
        classes,
        hparams.data_format,
    )


def explanation(end_points: Dict[str, tf.Tensor], hparams: HParams) -> Dict[str, tf.Tensor]:
    """The most probable classes of each image, the most probable first, and their maps.

    Returns:
        `top_classes` int64 [batch, k], `top_probabilities` float32 [batch, k], and `maps` float32
        [batch, k, height, width], where k is 5, or the number of classes if that is smaller.
    """
    logits = end_points["logits"]
    _, classes = tf.nn.top_k(logits, min(TOP_K, logits.shape[1].value))
    return {
        "top_classes": tf.cast(classes, tf.int64),
        "top_probabilities": tf.gather(end_points["predictions"], classes, batch_dims=1),
        "maps": maps_of(end_points, classes, hparams),
    }
