"""Every range that the generator draws from: whole-head shape, signals, perivascular spaces, confounders, scanner."""

from __future__ import annotations

import dataclasses

from mednext_jax.settings import ABOVE_ZERO, PROBABILITY, SWITCH, TEXT, Range, integer, number, setting, span


def _weights(count: int, words: str) -> Range:
    return Range(
        f"{words}, from 0 to 1e6, not all 0", lambda v: len(v) == count and all(0 <= w <= 1e6 for w in v) and sum(v) > 0
    )


def _counts(highest: int) -> Range:
    return Range(
        f"two whole numbers, the first not larger, from 0 to {highest}",
        lambda v: len(v) == 2 and all(type(n) is int for n in v) and 0 <= v[0] <= v[1] <= highest,
    )


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """What the generator draws, uniformly where nothing else is said; lengths in mm, patches of 1 mm voxels.

    Shape, signals, bias and resolution: SynthSeg (Billot 2023, BBillot/SynthSeg 66342c1), except where a perivascular
    space would not survive. Perivascular spaces: STRIVE-2, Bernal 2022, Ballerini 2018.
    """

    enabled: bool = setting(False, SWITCH, "make training patches instead of reading them; `data` stays empty then")
    anatomy: str = setting("", TEXT, "folder of label maps with FreeSurfer's numbers; empty: the packaged template")
    held_out: int = setting(
        2, integer(0), "of the label maps, the last ones by name are kept from training, for validation"
    )
    validation_scans: int = setting(8, integer(2, 1000), "whole scans simulated in them, for validation")
    # Which contrast, where in the head.
    families: tuple[float, ...] = setting(
        (0.3, 0.3, 0.15, 0.25),
        _weights(4, "four weights (T1w, T2w, FLAIR, any)"),
        "weights of T1w, T2w, FLAIR, any contrast",
    )
    centres: tuple[float, ...] = setting(
        (0.6, 0.25, 0.15),
        _weights(3, "three weights"),
        "weights of patches around a place for perivascular spaces, in the brain, anywhere in the head",
    )
    # Shape.
    flip: float = setting(0.5, PROBABILITY, "probability that left and right are exchanged")
    scaling: float = setting(0.2, number(0, 0.5), "each axis 1 +- this")
    rotation: float = setting(15.0, Range("degrees from 0 to 180", lambda v: 0 <= v <= 180), "each axis +- this")
    shear: float = setting(0.012, number(0, 0.5), "each pair of axes +- this")
    elastic: tuple[float, ...] = setting(
        (0.0, 3.0), span(0, 4), "standard deviation of the elastic displacement, mm, smooth over 16 mm"
    )
    # Signals; the scale of `tissues.SIGNALS`.
    free_signal: tuple[float, ...] = setting(
        (0.1, 0.98), span(0, 2), "mean of a class on any contrast (25/255, 250/255)"
    )
    signal_scatter: float = setting(0.04, number(0, 1), "standard deviation of a class's mean on a known contrast")
    contrast_gain: tuple[float, ...] = setting(
        (0.7, 1.2), span(0.1, 3), "factor on the differences between tissues of a known contrast"
    )
    unevenness: tuple[float, ...] = setting(
        (0.004, 0.03), span(0, 1), "standard deviation within a class of the brain (texture)"
    )
    unevenness_outside: tuple[float, ...] = setting((0.02, 0.1), span(0, 1), "the same outside of the brain")
    subclasses: float = setting(
        0.025, number(0, 1), "standard deviation of the difference between two parts of a class, in smooth patches"
    )
    texture: bool = setting(True, SWITCH, "whether tissues are uneven at all")
    bias: tuple[float, ...] = setting((0.0, 0.35), span(0, 2), "standard deviation of the log of the bias field")
    # Perivascular spaces.
    white_matter: tuple[int, ...] = setting((40, 600), _counts(1500), "how many in a whole brain, log-uniform")
    basal_ganglia: tuple[int, ...] = setting((10, 120), _counts(400), "the same, thalamus included")
    hippocampus: tuple[int, ...] = setting((1, 16), _counts(100), "the same")
    midbrain: tuple[int, ...] = setting((1, 12), _counts(100), "the same")
    width: tuple[float, ...] = setting((0.4, 3.0), span(0.1, 6), "diameter at the wide end, log-normal, cut to this")
    width_median: float = setting(1.0, ABOVE_ZERO, "median diameter")
    width_deviation: float = setting(0.42, number(0, 3), "standard deviation of the diameter's logarithm")
    length: tuple[float, ...] = setting((1.5, 20.0), span(0.2, 60), "log-normal, cut to this")
    length_median: float = setting(6.0, ABOVE_ZERO, "median length; 0.6 of it in the nuclei")
    length_deviation: float = setting(0.5, number(0, 3), "standard deviation of the length's logarithm")
    taper: tuple[float, ...] = setting((0.3, 1.0), span(0, 1), "diameter at the thin end, share of the wide end's")
    bend: float = setting(0.12, number(0, 1), "standard deviation of the sagitta, share of the length")
    jitter: float = setting(0.25, number(0, 3), "standard deviation of the direction about the vessels', radians or so")
    strength: tuple[float, ...] = setting(
        (0.25, 1.0), span(0, 1), "signal within, share of the way from the tissue's to fluid's"
    )
    fluid_offset: float = setting(
        0.04, number(0, 1), "standard deviation of their fluid's signal about the ventricles'"
    )
    # What they are not to be taken for.
    confounders: bool = setting(True, SWITCH, "lesions, lacunes, vessels, sulcal fluid, microbleeds")
    lesions: tuple[int, ...] = setting((0, 12), _counts(16), "white-matter lesions in a patch, where there are any")
    lesion_share: float = setting(0.5, PROBABILITY, "probability of lesions in a patch")
    lesion_radius: tuple[float, ...] = setting((1.0, 7.0), span(0.5, 20), "half the longest axis")
    lesion_strength: tuple[float, ...] = setting(
        (0.15, 0.9), span(0, 1), "share of the way to fluid; to bright on FLAIR"
    )
    caps: float = setting(0.35, PROBABILITY, "probability of bright caps and bands around the ventricles")
    lacunes: float = setting(0.15, PROBABILITY, "probability of a lacune in a patch")
    lacune_radius: tuple[float, ...] = setting((1.5, 5.0), span(0.5, 10), "the same")
    microbleeds: float = setting(0.1, PROBABILITY, "probability of a microbleed in a patch")
    vessels: tuple[int, ...] = setting((10, 150), _counts(400), "vessels in a whole brain, dark or bright, log-uniform")
    vessel_share: float = setting(0.6, PROBABILITY, "probability that vessels are seen at all")
    sulci: tuple[int, ...] = setting((20, 300), _counts(800), "fluid in the cortex, in a whole brain, log-uniform")
    sulcal_sheets: float = setting(
        0.6, PROBABILITY, "probability of thin sheets of fluid in sulci that are closed in the label map"
    )
    lesions_as_output: bool = setting(True, SWITCH, "whether lesions and lacunes are a class of their own (label 2)")
    # Scanner.
    acquisition: bool = setting(True, SWITCH, "blur, slices, noise, ghosts, intensity changes")
    blur: tuple[float, ...] = setting((0.25, 0.6), span(0.05, 3), "sigma of the point spread function, voxels acquired")
    truncation: float = setting(0.4, PROBABILITY, "probability of an axis with k-space's ringing in place of the blur")
    in_plane: tuple[float, ...] = setting((1.0, 1.25), span(1, 3), "voxel acquired, mm; 1 is the patch's own")
    thick_slices: float = setting(0.3, PROBABILITY, "probability of slices thicker than in-plane, along a drawn axis")
    slice_spacing: tuple[float, ...] = setting((1.0, 5.0), span(1, 8), "of these, log-uniform")
    slice_gap: tuple[float, ...] = setting((0.0, 0.3), span(0, 0.8), "share of the spacing between two slices")
    noise: tuple[float, ...] = setting((0.004, 0.05), span(0, 1), "Rician, log-uniform, share of the brightest tissue")
    ghosts: float = setting(0.1, PROBABILITY, "probability of a motion ghost")
    ghost_strength: tuple[float, ...] = setting((0.02, 0.1), span(0, 1), "share of the image that is shifted")
    gamma: float = setting(0.12, number(0, 1), "standard deviation of the logarithm of the intensities' exponent")
    clipping: tuple[float, ...] = setting((0.95, 1.5), span(0.1, 10), "intensities above are cut off")
    # What is left of the head.
    extraction: float = setting(0.75, PROBABILITY, "probability that the brain was extracted, its edge imperfect")
    edge_offset: tuple[float, ...] = setting((-2.0, 4.0), span(-10, 15), "mm by which the brain mask is too large")
    edge_waves: float = setting(1.2, number(0, 10), "standard deviation of its edge, mm, smooth over 8 mm")
    normalisation_error: float = setting(0.12, number(0, 1), "of a patch's mean and deviation against its whole scan's")
    # Truth.
    label_share: float = setting(
        0.1, PROBABILITY, "a voxel is labelled if it was moved this share of the way to fluid, as acquired ..."
    )
    label_noise: float = setting(1.6, number(0, 100), "... and by this many standard deviations of noise and texture")
    ignored_share: float = setting(0.6, PROBABILITY, "voxels above this share of both are neither, and do not count")

    def problems_between(self) -> dict[str, str]:
        """Ranges that several fields break together, by field."""
        if self.white_matter[1] + self.basal_ganglia[1] + self.hippocampus[1] + self.midbrain[1] == 0:
            return {"white_matter": "a region that may have perivascular spaces"}
        return {}
