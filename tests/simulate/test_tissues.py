from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax.measure.freesurfer import FREESURFER
from mednext_jax.simulate import tissues

pytestmark = pytest.mark.core


def test_every_number_of_freesurfer_is_a_tissue():
    assert not [n for n in FREESURFER if tissues.TISSUE_OF_NUMBER[n] == tissues.UNKNOWN]
    by_name = {tissue.name: index for index, tissue in enumerate(tissues.TISSUES)}
    for number, name in ((2, "white matter"), (41, "white matter"), (251, "white matter"), (4, "ventricle")):
        assert tissues.TISSUE_OF_NUMBER[number] == by_name[name]
    for number, name in ((1011, "cortex"), (24, "fluid"), (52, "pallidum"), (77, "lesion"), (173, "brainstem")):
        assert tissues.TISSUE_OF_NUMBER[number] == by_name[name]
    assert tissues.TISSUE_OF_NUMBER[0] == tissues.AIR
    assert tissues.TISSUE_OF_NUMBER[777] == tissues.UNKNOWN


def test_contrasts_order_the_tissues_as_scanners_do():
    t1w, t2w, flair = ({t.name: s for t, s in zip(tissues.TISSUES, row, strict=True)} for row in tissues.SIGNALS)
    assert t1w["white matter"] > t1w["pallidum"] > t1w["putamen"] > t1w["cortex"] > t1w["ventricle"]
    assert t2w["ventricle"] > t2w["cortex"] > t2w["white matter"] > t2w["pallidum"]
    assert flair["lesion"] > flair["cortex"] > flair["white matter"] > flair["ventricle"]
    assert np.all(tissues.SIGNALS[:, tissues.AIR] == 0)


def test_perivascular_spaces_lie_in_the_tissues_that_the_literature_names():
    names = {tissues.TISSUES[index].name for index in tissues.WITH_PVS}
    assert names == {"white matter", "thalamus", "caudate", "putamen", "pallidum", "hippocampus", "brainstem"}
    assert max(tissues.WITH_PVS) < len(tissues.IN_BRAIN)


def test_the_brain_is_neither_air_nor_what_is_around_it():
    every = np.arange(len(tissues.TISSUES), dtype=np.uint8)
    inside = tissues.in_brain(every)
    assert [tissues.TISSUES[n].name for n in every[~inside]][:2] == ["air", "outside the brain 502"]
    assert tissues.TISSUES[int(every[inside][-1])].name == "other brain" and inside[tissues.FLUID]
    np.testing.assert_array_equal(tissues.in_brain(jnp.asarray(every)), inside)
