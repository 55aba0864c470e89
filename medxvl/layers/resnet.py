"""ResNet-50 as an image encoder, from timm."""

from timm.models.resnet import ResNet, resnet50


def build(channels: int) -> ResNet:
    """ResNet-50 without pooling and head: images (N, channels, s, s) -> a map of 2,048 features at
    a stride of 32."""
    return resnet50(num_classes=0, global_pool="", in_chans=channels)
