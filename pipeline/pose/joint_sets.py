"""The known joint sets: joints, mirror pairs, limbs and measures of accuracy."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from pipeline.pose.joint_set import OKS, JointSet, Measure, Normaliser
from pipeline.pose.sides import plain_name

__all__ = [
    "COCO",
    "FLIC",
    "JOINT_SETS",
    "LSP",
    "MPII",
    "OKS",
    "PCKH",
    "PCK_BOX",
    "SYNTHETIC",
    "JointSet",
    "Measure",
    "Normaliser",
    "joint_set",
    "known_sigmas",
]

PCKH = Measure(key="pckh", title="PCKh", normaliser="head", thresholds=(0.5, 0.1))
PCK_BOX = Measure(key="pck_box", title="PCK-box", normaliser="box", thresholds=(0.05, 0.2))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _limbs(text: str) -> tuple[tuple[int, int], ...]:
    """Read limbs from chains of joints, such as `0-1-2 1-3`."""
    chains = ([int(joint) for joint in chain.split("-")] for chain in text.split())
    return tuple(limb for chain in chains for limb in pairwise(chain))


def _pck_torso(shoulder: int, hip: int) -> Measure:
    # A torso diagonal of Yang and Ramanan's PCK, as Sapp and Taskar (CVPR 2013) normalise it.
    return Measure(
        key="pck_torso",
        title="PCK-torso",
        normaliser="segment",
        segment=(shoulder, hip),
        thresholds=(0.2, 0.1),
    )


# Andriluka et al., CVPR 2014. As in the official toolkit, pelvis (6) and thorax (7) do not enter
# the mean. The group "head" is head-top alone, as in the tables of pytorch-pose and HRNet. The
# toolkit, and so the paper's tables, take the mean of upper neck and head-top.
MPII = JointSet(
    name="mpii",
    joints=_names("""
        right_ankle right_knee right_hip left_hip left_knee left_ankle pelvis thorax upper_neck
        head_top right_wrist right_elbow right_shoulder left_shoulder left_elbow left_wrist
    """),
    flip_pairs=((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
    limbs=_limbs("0-1-2-6 3-6 3-4-5 6-7-8-9 10-11-12-7 13-7 13-14-15"),
    groups=(
        ("head", (9,)),
        ("head and neck", (8, 9)),
        ("shoulder", (12, 13)),
        ("elbow", (11, 14)),
        ("wrist", (10, 15)),
        ("hip", (2, 3)),
        ("knee", (1, 4)),
        ("ankle", (0, 5)),
    ),
    in_mean=tuple(joint for joint in range(16) if joint not in (6, 7)),
    measures=(PCKH, _pck_torso(13, 2)),
)

# Rendered people have MPII's joints, so that a network can move from one to the other.
SYNTHETIC = replace(MPII, name="synthetic")

# Johnson and Everingham, BMVC 2010 and CVPR 2011. Without a head box, the head size is the distance
# from head-top to neck.
LSP = JointSet(
    name="lsp",
    joints=_names("""
        right_ankle right_knee right_hip left_hip left_knee left_ankle right_wrist right_elbow
        right_shoulder left_shoulder left_elbow left_wrist neck head_top
    """),
    flip_pairs=((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9)),
    limbs=_limbs("0-1-2-3-4-5 6-7-8-12 9-12 9-10-11 12-13 2-8 3-9"),
    groups=(
        ("head", (12, 13)),
        ("shoulder", (8, 9)),
        ("elbow", (7, 10)),
        ("wrist", (6, 11)),
        ("hip", (2, 3)),
        ("knee", (1, 4)),
        ("ankle", (0, 5)),
    ),
    in_mean=tuple(range(14)),
    measures=(replace(PCKH, normaliser="segment", segment=(13, 12)), _pck_torso(9, 2)),
)

# Lin et al., ECCV 2014. Without a head box, PCKh is undefined. The sigmas are those of COCO's
# evaluation (cocodataset.org/#keypoints-eval).
COCO = JointSet(
    name="coco",
    joints=_names("""
        nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow
        right_elbow left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle
        right_ankle
    """),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    limbs=_limbs("15-13-11 16-14-12 11-12 5-11 6-12 5-6 5-7 6-8 7-9 8-10 0-1 0-2 1-3 2-4 3-5 4-6"),
    groups=(
        ("face", (0, 1, 2, 3, 4)),
        ("shoulder", (5, 6)),
        ("elbow", (7, 8)),
        ("wrist", (9, 10)),
        ("hip", (11, 12)),
        ("knee", (13, 14)),
        ("ankle", (15, 16)),
    ),
    in_mean=tuple(range(17)),
    measures=(_pck_torso(5, 12), PCK_BOX),
    sigmas=(
        *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
        *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ),
)

# Sapp and Taskar, CVPR 2013: upper bodies in films. These are the 11 annotated points of their
# examples.mat (29 columns), in its order. pose-hg-train's h5 files keep that order, as the pairs
# {1,4} {2,5} {3,6} {7,8} {9,10} of its flip (src/util/img.lua, counted from 1) confirm.
FLIC = JointSet(
    name="flic",
    joints=_names("""
        left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist left_hip
        right_hip left_eye right_eye nose
    """),
    flip_pairs=((0, 3), (1, 4), (2, 5), (6, 7), (8, 9)),
    limbs=_limbs("0-1-2 3-4-5 0-3 0-6 3-7 6-7 8-10 9-10"),
    groups=(
        ("face", (8, 9, 10)),
        ("shoulder", (0, 3)),
        ("elbow", (1, 4)),
        ("wrist", (2, 5)),
        ("hip", (6, 7)),
    ),
    in_mean=tuple(range(11)),
    # `normalize` of the paper's authors' files: from the right shoulder to the left hip.
    measures=(_pck_torso(3, 6),),
)

JOINT_SETS = {joint_set.name: joint_set for joint_set in (MPII, LSP, COCO, FLIC, SYNTHETIC)}


def joint_set(name: str) -> JointSet:
    """Return the joint set called `name`. Raises ValueError that lists the known ones."""
    try:
        return JOINT_SETS[name]
    except KeyError:
        known = ", ".join(sorted(JOINT_SETS))
        raise ValueError(f"unknown joint set {name!r}; known: {known}") from None


# Sigmas of joints by their names without case and separators: COCO's, CrowdPose's (Li et al., CVPR
# 2019; its head and neck are measured like shoulders) and AI Challenger's (half the deltas of its
# keypoint_eval.py), the last two as MMPose's dataset files have them.
_LIMBS_OF_COCO = dict(
    zip(map(plain_name, COCO.joints[5:]), COCO.sigmas[5:], strict=True),
)
_SIGMAS = (
    dict(zip(map(plain_name, COCO.joints), COCO.sigmas, strict=True)),
    _LIMBS_OF_COCO | dict.fromkeys(("head", "tophead", "neck"), 0.079),
    {
        "rightshoulder": 0.01388152,
        "rightelbow": 0.01515228,
        "rightwrist": 0.01057665,
        "leftshoulder": 0.01417709,
        "leftelbow": 0.01497891,
        "leftwrist": 0.01402144,
        "righthip": 0.03909642,
        "rightknee": 0.03686941,
        "rightankle": 0.01981803,
        "lefthip": 0.03843971,
        "leftknee": 0.03412318,
        "leftankle": 0.02415081,
        "headtop": 0.01291456,
        "neck": 0.01236173,
    },
)


def known_sigmas(names: Sequence[str]) -> tuple[float, ...]:
    """Return each joint's OKS sigma, if one known set names them all; else nothing."""
    plain = list(map(plain_name, names))
    for known in _SIGMAS:
        if all(name in known for name in plain):
            return tuple(known[name] for name in plain)
    return ()
