"""Which architectures are alike, and what halving every group must leave of their parameters.

One table: family, name patterns, and the largest share of parameters that may be left; None where nothing is promised.
The first pattern that matches decides.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Architectures that are alike: name patterns, and the largest share of parameters that halving may leave."""

    name: str
    patterns: str
    limit: float | None = None


FAMILIES = (
    Family(
        "detection and segmentation",
        """*rcnn* ssdlite* deeplab* fcn_* hf_detr* hf_mask2former* hf_convnext_upernet* h_yolov5* hf_vitmatte*""",
    ),
    Family(
        "plain CNN",
        """alexnet* convmixer* darknet* dla34* dpn68* ese_vovnet* gcresnext26ts* googlenet* hrnet* legacy_seresnet*
        legacy_xception* r2plus1d* r3d_* res2net50* resnet18__* resnet34__* resnet50__* resnet101__* resnet50d__*
        resnetblur50* resnetv2_50__* resnext50* s3d* seresnet50* seresnext50* skresnet18* tresnet* xception41*
        h_attention_unet* h_cifar_* h_edsr* h_hourglass* h_lenet5*""",
        0.30,
    ),
    Family(
        "mobile CNN",
        "efficientnet_* mnasnet* mobilenet_* repvit* rexnet* spnasnet* starnet*",
        0.36,
    ),
    # A classifier of 1000 classes only loses its inputs; here it is a quarter to a half of all parameters.
    Family("CNN with a large classifier", "gernet* hgnetv2* mixnet* repghostnet* squeezenet*", 0.40),
    # A convolution over neighboring channels ties their order, and with it every block's inner width.
    Family("CNN with windows over channels", "eca_resnet33ts*"),
    Family("CNN with other norms", "resnet50_gn* resnetv2_50x1_bit*"),
    Family(
        "vision transformer",
        """beit_* convit* crossvit* davit* deit* flexivit* h_hvit_* hf_beit* hf_blip_vision* hf_deit*
        hf_dinov2* hf_levit* hf_swin2sr* hf_swin_* hf_vit_base* hf_yolos* hiera* mvit* nest_* samvit* swin_*
        twins_* vitamin* volo* xcit*""",
        0.60,
    ),
    Family("ConvNeXt and its like", "convnext_* convnextv2_* edgenext* hf_poolformer* rdnet*", 0.60),
    Family("encoder transformer", "h_conformer* h_torch_transformer_encoder* hf_wav2vec2*", 0.60),
    # The table of a vocabulary keeps its rows; it is a third to nine tenths of these.
    Family("encoder transformer with a vocabulary", "hf_albert* hf_distilbert* hf_fnet* hf_squeezebert*", 0.60),
    Family("gated MLP", "gmlp*", 0.40),
    Family(
        "hybrid of convolution and attention",
        """bat_resnext* botnet* coatnet* efficientformer* efficientvim* efficientvit* h_nonlocal* hf_cvt* hf_mobilevit*
        iformer* lambda_* lowformer* maxvit* mobilevit* nextvit* swiftformer* tiny_vit* visformer*""",
    ),
    Family(
        "decoder and sequence to sequence",
        """h_llama* h_mamba* h_torch_mha* h_torch_seq2seq* hf_bart* hf_bloom* hf_gemma* hf_gpt* hf_llama* hf_opt*
        hf_qwen*""",
    ),
)
OTHER = Family("other", "*")


def family_of(model: str) -> Family:
    """The first family with a pattern that matches a model's name."""
    matches = (f for f in FAMILIES if any(fnmatch.fnmatchcase(model, pattern) for pattern in f.patterns.split()))
    return next(matches, OTHER)
