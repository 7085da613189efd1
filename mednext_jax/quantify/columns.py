"""Every column of the tables, and the data dictionaries that define them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable

from mednext_jax.measure.parcellation import CENTRUM_SEMIOVALE


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table: its unit ("" for none), what it says, and how many decimals it has."""

    name: str
    units: str
    description: str
    decimals: int = 4


_COUNTED = "clusters of at least the smallest size (min_voxels and min_mm3)"
_NO_MAP = "n/a if there is no region map"

CLUSTERS = (
    Column("cluster", "", "Number of the cluster in the labelled image"),
    Column("region", "", "Region with most of the cluster's voxels, voxels without a region not counted; " + _NO_MAP),
    Column("hemisphere", "", "left, right, or n/a where the region has no side"),
    Column("lobe", "", "Lobe of the white matter (deep: FreeSurfer's unsegmented), n/a where the map has none"),
    Column("part", "", f"{CENTRUM_SEMIOVALE} (white matter above the roof of the lateral ventricles) or n/a"),
    Column("region_tie", "", "1: another region holds as many voxels, and the name that sorts first was taken"),
    Column("x_mm", "mm", "Centroid in the scan's world coordinates, to the right"),
    Column("y_mm", "mm", "Centroid, to the front"),
    Column("z_mm", "mm", "Centroid, upwards"),
    Column("voxels", "", "Number of voxels"),
    Column("volume_mm3", "mm3", "Volume"),
    Column("length_mm", "mm", "Length along the middle line, sqrt(12 variance of the voxels' places along it)"),
    Column("width_mm", "mm", "Mean diameter, 2 sqrt(volume / (pi length))"),
    Column("width_max_mm", "mm", "Diameter of the widest part of the course, parts being as long as wide"),
    Column("linearity", "", "(l1 - l2) / l1 of the eigenvalues of the covariance; 1 a line, 0 a ball or a disc"),
    Column("tortuosity", "", "Length of the middle line over the distance of its ends; 1 is straight"),
    Column("direction_x", "", "First axis, unit vector, to the right"),
    Column("direction_y", "", "First axis, to the front"),
    Column("direction_z", "", "First axis, upwards, never negative"),
    Column(
        "angle_to_ventricle_normal_deg",
        "deg",
        "Angle between the first axis and the normal of the nearest ventricle's surface; n/a without ventricles",
    ),
    Column("probability_mean", "", "Mean probability of its voxels; n/a without a probability map"),
    Column("probability_max", "", "Largest probability of its voxels"),
    Column(
        "distance_to_ventricles_mm",
        "mm",
        "Between the nearest voxel centres of cluster and ventricles; n/a without ventricles",
    ),
    Column(
        "length_edinburgh_mm", "mm", "2 sqrt(5 l1), as Ballerini et al. measure; of a cylinder 1.29 times its length"
    ),
    Column("width_edinburgh_mm", "mm", "2 sqrt(5 l2), as Ballerini et al.; of a long cylinder 1.12 times its diameter"),
    Column("counted", "", "1: of at least the smallest size; 0: too small, only in count_all and volume_all_mm3"),
    Column(
        "below_resolution",
        "",
        "1: narrower than 1.5 voxels; its width is the grid's, and thin PVS break into pieces or are missed",
    ),
    Column("possible_lacune", "", "1: wider than 3 mm and width / length above 0.6 (ovoid)"),
    Column("touches_csf_or_cortex", "", "1: in or beside cortex or fluid outside the ventricles; likely a sulcus"),
)
UNCERTAINTY = (
    Column("sd_between_folds", "", "Mean over its voxels of the standard deviation of the models' probabilities"),
    Column("sd_between_mirrors", "", "Mean over its voxels of the standard deviation of the mirrors' probabilities"),
    Column("entropy", "bit", "Mean over its voxels of the entropy of the mean probability"),
)

REGIONS = (
    Column(
        "region",
        "",
        f"whole brain: all clusters; elsewhere: those in no region; {CENTRUM_SEMIOVALE} and 'white matter, LOBE' are "
        "parts of white matter",
    ),
    Column("hemisphere", "", "left, right, both (all of the region), or n/a for a region without sides"),
    Column("count", "", f"Number of {_COUNTED}"),
    Column("count_all", "", "Number of clusters of any size"),
    Column("count_below_resolution", "", "Counted clusters that are narrower than 1.5 voxels"),
    Column("volume_mm3", "mm3", "Volume of the counted clusters"),
    Column("volume_all_mm3", "mm3", "Volume of clusters of any size"),
    Column(
        "region_volume_mm3",
        "mm3",
        f"Volume of the region within the scan; whole brain: all labels but fluid; {_NO_MAP}",
    ),
    Column("fraction", "", "volume_mm3 / region_volume_mm3", decimals=7),
    Column("density_per_ml", "1/mL", "count per mL of the region"),
    Column("volume_mean_mm3", "mm3", "Mean volume of the counted clusters"),
    Column("volume_median_mm3", "mm3", "Median volume of the counted clusters"),
    Column("volume_max_mm3", "mm3", "Largest volume"),
    Column("length_total_mm", "mm", "Sum of the lengths of the counted clusters"),
    Column("length_mean_mm", "mm", "Mean length of the counted clusters"),
    Column("width_mean_mm", "mm", "Mean width of the counted clusters"),
    Column(
        "potter",
        "",
        "Potter's visual score of the count in the fullest axial slice: 0 none, 1: 1 to 10, 2: 11 to 20, 3: 21 to 40, "
        "4: more; both: of the side with more; basal ganglia and centrum semiovale; midbrain: 0 or 1",
    ),
    Column("wardlaw", "", "The score in words: none, mild, moderate, frequent, severe; midbrain: none, present"),
    Column("slice_count", "", "Counted clusters that reach into the fullest axial slice, of one side"),
    Column("slice_z_mm", "mm", "Where the middle of that slice lies"),
    Column("min_voxels", "", "Smallest size of a counted cluster, voxels"),
    Column("min_mm3", "mm3", "Smallest size of a counted cluster, mm3; both must be met"),
    Column("connectivity", "", "Voxels that touch by a face (6), an edge (18) or a corner (26) are one cluster"),
    Column("voxel_mm3", "mm3", "Volume of a voxel of the scan"),
)
OVERLAP = (
    Column(
        "regions_overlap",
        "",
        "Overlap (Dice) of the scan's brain with that of the region map or atlas; n/a if the brain is not extracted",
    ),
)
COUNT_UNCERTAINTY = (
    Column("count_expected", "", "Mean count over models and mirrors, each thresholded by itself"),
    Column("count_low", "", "Lower end of the 95 % interval of the count over models and mirrors"),
    Column("count_high", "", "Upper end"),
    Column("volume_expected_mm3", "mm3", "Mean volume over models and mirrors"),
    Column("volume_low_mm3", "mm3", "Lower end of the 95 % interval of the volume"),
    Column("volume_high_mm3", "mm3", "Upper end"),
)
SCAN = Column("scan", "", "Name of the scan")
INDEX = (
    Column("index", "", "Number of the cluster in the labelled image (BIDS)"),
    Column("name", "", "PVS and the cluster's number (BIDS)"),
)


def dictionary(columns: Iterable[Column]) -> dict[str, dict[str, str]]:
    """A BIDS data dictionary: column -> Description and Units."""
    return {c.name: {"Description": c.description} | ({"Units": c.units} if c.units else {}) for c in columns}


def dictionary_text(columns: Iterable[Column]) -> str:
    """`dictionary` as the text of a JSON file."""
    return json.dumps(dictionary(columns), indent=2) + "\n"
