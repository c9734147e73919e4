"""Which architectures are alike, and what halving every group must leave of their parameters.

One table: family, name patterns, and the largest share of parameters that may be left; None where nothing is promised.
The first pattern that matches decides.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Architectures that are alike, and the largest share of parameters that halving may leave."""

    name: str
    patterns: tuple[str, ...]
    limit: float | None = None


FAMILIES = (
    Family(
        "detection and segmentation",
        (
            *("*rcnn*", "ssdlite*", "deeplab*", "fcn_*", "hf_detr*", "hf_mask2former*", "hf_convnext_upernet*"),
            *("h_yolov5*", "hf_vitmatte*"),
        ),
    ),
    Family(
        "mobile CNN",
        (
            *("mobilenet_*", "mnasnet*", "efficientnet_*", "mixnet*", "rexnet*", "spnasnet*", "repghostnet*"),
            *("starnet*", "repvit*"),
        ),
        0.36,
    ),
    Family(
        "plain CNN",
        (
            *("alexnet*", "convmixer*", "darknet*", "dla34*", "dpn68*", "eca_resnet33ts*", "ese_vovnet*"),
            *("gcresnext26ts*", "gernet*", "googlenet*", "hgnetv2*", "hrnet*", "legacy_seresnet*", "legacy_xception*"),
            *("r2plus1d*", "r3d_*", "res2net50*", "resnet18__*", "resnet34__*", "resnet50__*", "resnet101__*"),
            *("resnet50d__*", "resnetblur50*", "resnetv2_50__*", "resnext50*", "s3d*", "seresnet50*", "seresnext50*"),
            *("skresnet18*", "squeezenet*", "tresnet*", "xception41*", "h_cifar_*", "h_lenet5*", "h_hourglass*"),
            *("h_edsr*", "h_attention_unet*"),
        ),
        0.30,
    ),
    Family("CNN with other norms", ("resnet50_gn*", "resnetv2_50x1_bit*")),
    Family(
        "vision transformer",
        (
            *(
                "beit_*",
                "convit*",
                "crossvit*",
                "davit*",
                "deit*",
                "flexivit*",
                "hiera*",
                "hf_beit*",
                "hf_blip_vision*",
            ),
            *("hf_deit*", "hf_dinov2*", "hf_levit*", "hf_vit_base*", "hf_yolos*", "h_hvit_*", "mvit*", "nest_*"),
            *("samvit*", "swin_*", "hf_swin_*", "twins_*", "vitamin*", "volo*", "xcit*", "gmlp*", "hf_swin2sr*"),
        ),
        0.60,
    ),
    Family("ConvNeXt and its like", ("convnext_*", "convnextv2_*", "rdnet*", "edgenext*", "hf_poolformer*"), 0.60),
    Family(
        "encoder transformer",
        (
            *("hf_albert*", "hf_distilbert*", "hf_fnet*", "hf_squeezebert*", "hf_wav2vec2*", "h_conformer*"),
            "h_torch_transformer_encoder*",
        ),
        0.60,
    ),
    Family(
        "hybrid of convolution and attention",
        (
            *("bat_resnext*", "botnet*", "coatnet*", "efficientformer*", "efficientvim*", "efficientvit*", "hf_cvt*"),
            *("hf_mobilevit*", "iformer*", "lambda_*", "lowformer*", "maxvit*", "mobilevit*", "nextvit*"),
            *("swiftformer*", "tiny_vit*", "visformer*", "h_nonlocal*"),
        ),
    ),
    Family(
        "decoder and sequence to sequence",
        (
            *("hf_bart*", "hf_bloom*", "hf_gemma*", "hf_gpt*", "hf_llama*", "hf_opt*", "hf_qwen*", "h_llama*"),
            *("h_torch_seq2seq*", "h_torch_mha*", "h_mamba*"),
        ),
    ),
)
OTHER = Family("other", ("*",))


def family_of(model: str) -> Family:
    """The first family with a pattern that matches a model's name."""
    matches = (f for f in FAMILIES if any(fnmatch.fnmatchcase(model, pattern) for pattern in f.patterns))
    return next(matches, OTHER)
