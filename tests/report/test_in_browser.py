"""The pages in a headless Chromium: no error, the viewer moves, tables sort, nothing is injected, all can be read."""

from __future__ import annotations

import json
import re

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.report.report import report

from .conftest import AFFINE, CLUSTERS, SHAPE, write_table

pytestmark = pytest.mark.core

READ_BACK = "willReadFrequently"  # advice on what these tests do with a canvas
LOCAL = ("file:", "data:")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture
def opened(chromium):
    """Opens a page at a size; fails at the end if the browser had anything to say of it."""
    said, pages = [], []

    def go(path, size=DESKTOP):
        page = chromium.new_page(viewport=size)
        pages.append(page)
        page.on("console", lambda message: None if READ_BACK in message.text else said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(LOCAL) else said.append(request.url))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto(path.resolve().as_uri())
        if path.name != "report.html":
            page.wait_for_selector("html[data-viewer=ready]")
        return page

    yield go
    for page in pages:
        page.close()
    assert not said


@pytest.fixture
def scan_page(write_prediction):
    out = write_prediction()
    report(out)
    return out / "sub-01_report.html"


def place(page):
    """x, y, z in mm of the viewer's cross."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    text = page.locator(".here").inner_text().replace("−", "-")
    return [float(value) for value in re.match(r"x (\S+), y (\S+), z (\S+) mm", text).groups()]


def in_mm(*voxel):
    return pytest.approx(list(nib.affines.apply_affine(AFFINE, voxel)), abs=0.051)


def test_a_click_on_a_row_jumps_to_its_cluster(opened, scan_page):
    page = opened(scan_page)
    for label in (2, 1, 3):
        page.locator(f"tr[data-cluster='{label}'] td").first.click()
        at = place(page)
        assert any(at == in_mm(*voxel) for voxel in CLUSTERS[label])
        assert f"PVS {label}" in page.locator(".here").inner_text()
        assert "probability 0.75" in page.locator(".here").inner_text()
        assert any(
            "voxel {}, {}, {} of the file".format(*v) in page.locator(".here").inner_text() for v in CLUSTERS[label]
        )
        assert page.locator("tr.chosen").get_attribute("data-cluster") == str(label)
    page.locator("tr[data-cluster='2'] button.jump").focus()  # the same by keyboard
    page.keyboard.press("Enter")
    assert place(page) == in_mm(*CLUSTERS[2][0])
    page.locator("[data-do=next]").click()
    assert place(page) != in_mm(*CLUSTERS[2][0])


def test_keys_and_sliders_move_the_viewer(opened, scan_page):
    page = opened(scan_page)
    page.locator("tr[data-cluster='2'] button").click()
    x, y, z = place(page)
    page.locator("[data-plane=axial] canvas").focus()
    page.keyboard.press("PageUp")
    assert place(page) == pytest.approx([x, y, z + 2], abs=0.051)
    page.keyboard.press("ArrowUp")
    assert place(page) == pytest.approx([x, y + 1, z + 2], abs=0.051)
    page.keyboard.press("ArrowLeft")  # radiological: the picture's left is the subject's right
    assert place(page) == pytest.approx([x + 1, y + 1, z + 2], abs=0.051)
    page.locator("select[data-do=convention]").select_option("neurological")
    page.locator("[data-plane=axial] canvas").focus()
    page.keyboard.press("ArrowLeft")
    assert place(page) == pytest.approx([x, y + 1, z + 2], abs=0.051)
    page.keyboard.press("n")
    assert any(place(page) == in_mm(*voxel) for voxels in CLUSTERS.values() for voxel in voxels)
    before = place(page)
    page.locator("#slice-coronal").focus()
    page.keyboard.press("ArrowRight")
    assert place(page) == pytest.approx([before[0], before[1] + 1, before[2]], abs=0.051)
    page.locator("[data-plane=sagittal] canvas").hover()
    page.mouse.wheel(0, -100)
    assert place(page) == pytest.approx([before[0] + 1, before[1] + 1, before[2]], abs=0.051)


def test_a_click_in_a_picture_moves_the_cross_there(opened, scan_page):
    """The right of the subject is at the left of the picture, the front at its top."""
    page = opened(scan_page)
    canvas = page.locator("[data-plane=axial] canvas")
    box = canvas.bounding_box()
    canvas.click(position={"x": 0.1 * box["width"], "y": 0.1 * box["height"]})
    x, y, _ = place(page)
    assert x > 10 and y > 8
    canvas.click(position={"x": 0.9 * box["width"], "y": 0.9 * box["height"]})
    x, y, _ = place(page)
    assert x < -10 and y < -8


def test_the_viewer_shows_the_scan_the_outlines_and_the_probability(opened, scan_page):
    page = opened(scan_page)
    page.locator("input[data-show=cross]").uncheck()
    page.locator("tr[data-cluster='1'] button").click()
    pixels = """() => { const c = document.querySelector('[data-plane=axial] canvas');
        const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);
        let coloured = 0, bright = 0;
        for (let i = 0; i < data.length; i += 4) { coloured += data[i] !== data[i + 2]; bright += data[i] > 40; }
        return [coloured, bright / (data.length / 4)]; }"""

    def coloured():
        place(page)
        count, bright = page.evaluate(pixels)
        assert bright > 0.5  # the head fills the picture
        return count

    assert coloured() == 0  # the chosen cluster is white
    page.locator("tr[data-cluster='2'] button").click()
    for _ in range(3):
        page.locator("[data-do=out]").click()
    page.locator("#slice-axial").fill("11")
    assert coloured() > 50  # cluster 1 in yellow
    page.locator("input[data-show=outlines]").uncheck()
    assert coloured() == 0
    page.locator("input[data-show=probability]").check()
    assert coloured() > 50
    assert page.locator(".scale-bar").is_visible()


def test_the_viewer_lays_maps_of_uncertainty_over_the_scan(opened, write_prediction):
    out = write_prediction()
    unsure = np.zeros(SHAPE, np.float32)
    unsure[36, 20, 10:16] = 0.4
    for name in ("sd_between_mirrors", "entropy"):
        nib.save(nib.Nifti1Image(unsure, AFFINE), out / f"sub-01_{name}.nii.gz")
    report(out)
    page = opened(out / "sub-01_report.html")
    page.locator("tr[data-cluster='1'] button").click()
    place(page)
    here, bar = page.locator(".here"), page.locator(".scale-bar")
    assert "SD of" not in here.inner_text() and not bar.is_visible()
    page.locator("select[data-do=map]").select_option("sd_between_mirrors")
    place(page)
    assert "SD of the probability between mirrors 0.40" in here.inner_text() and "0.75" in here.inner_text()
    assert bar.inner_text().startswith("SD of the probability between mirrors") and bar.inner_text().endswith("0.5")
    page.locator("select[data-do=map]").select_option("entropy")
    place(page)
    assert "entropy of the probability (bit) 0.40" in here.inner_text() and bar.inner_text().endswith("1")
    page.locator("input[data-show=probability]").uncheck()
    place(page)
    assert "entropy" not in here.inner_text() and not bar.is_visible()
    assert opened(out / "sub-02_report.html").locator("select[data-do=map]").count() == 0
    phone = opened(out / "sub-01_report.html", PHONE)
    box, frame = (phone.locator(what).bounding_box() for what in ("select[data-do=map]", ".viewer"))
    assert box["x"] + box["width"] <= frame["x"] + frame["width"]


def column(page, name, table="#pvs"):
    heads = page.locator(f"{table} thead th").all_inner_texts()
    number = next(i for i, head in enumerate(heads) if head.strip(" ▲▼") == name)
    return [row.locator("th, td").nth(number).inner_text() for row in page.locator(f"{table} tbody tr").all()]


def test_tables_sort_both_ways_by_number_and_by_text(opened, scan_page):
    page = opened(scan_page)
    head = page.locator("#pvs thead th", has_text="volume")
    head.locator("button").click()
    assert column(page, "volume (mm³)") == ["2.00", "4.00", "12.0"]
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").press("Enter")
    assert column(page, "volume (mm³)") == ["12.0", "4.00", "2.00"]
    assert head.get_attribute("aria-sort") == "descending"
    page.locator("#pvs thead th", has_text="hemisphere").locator("button").click()
    assert column(page, "hemisphere") == ["left", "left", "right"]
    page.locator("input[data-filter]").fill("cortex")
    assert [row.is_visible() for row in page.locator("#pvs tbody tr").all()].count(True) == 1
    assert "1 of 3 rows" in page.locator("[data-count]").inner_text()


def test_names_and_cells_with_markup_and_controls_are_shown_as_text(opened, write_prediction):
    case = "a<script>alert(1)<_script>\x1b[31m&amp;\"'"
    out = write_prediction(cases=(case,))
    rows = (out / f"{case}_clusters.tsv").read_text().replace("white matter", "<img src=x onerror=alert(2)>")
    (out / f"{case}_clusters.tsv").write_text(rows)
    record = json.loads((out / "prediction.json").read_text())
    record["models"][0]["path"] = "</script><script>alert(3)</script>"
    record["device"] = "<b onclick=alert(4)>cpu</b>"
    (out / "prediction.json").write_text(json.dumps(record))
    (out / "clusters.json").write_text(json.dumps({"region": {"Description": "<i>of</i>", "Units": "<u>"}}))
    people = [
        {"participant_id": case, "<script>alert(5)</script>": "x"},
        {"participant_id": "b", "<script>alert(5)</script>": "y"},
    ]
    write_table(out.parent / "data" / "participants.tsv", people)
    report(out)
    shown = "a<script>alert(1)<_script>\\x1b[31m&amp;\"'"
    page = opened(out / f"{case}_report.html")
    assert page.title() == f"Perivascular spaces: {shown}" == page.locator("h1").inner_text()
    assert "<img src=x onerror=alert(2)>" in page.locator("#pvs tbody").inner_text()
    assert "</script><script>alert(3)</script>" in page.locator("#made").inner_text()
    assert page.locator("main img, main b, main i, main u").count() == 0
    group = opened(out / "report.html")
    link = group.locator("#scans tbody a")
    assert link.inner_text() == shown
    link.click()
    assert page.title() == group.title()


def test_the_page_lets_no_other_script_in(chromium, scan_page, tmp_path):
    hostile, said = tmp_path / "hostile_report.html", []
    script = "<script>document.title = 'mine'</script><img src='http://127.0.0.1:9/x.png'><p onclick='1'>"
    hostile.write_text(scan_page.read_text().replace("<footer>", f"{script}<footer>"))
    page = chromium.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.goto(hostile.as_uri())
    page.wait_for_selector("html[data-viewer=ready]")
    assert page.title() == "Perivascular spaces: sub-01"
    refused = [text for text in said if "Content Security Policy" in text]
    assert any("script" in text for text in refused) and any("x.png" in text for text in refused)
    page.close()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_is_cut_off_at_either_width(opened, scan_page, size, tmp_path):
    for path in (scan_page, scan_page.with_name("report.html")):
        page = opened(path, size)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        assert (tmp_path / "page.png").stat().st_size > 20_000
    canvas = opened(scan_page, size).locator("[data-plane=axial] canvas").bounding_box()
    assert canvas["width"] > (300 if size is PHONE else 250)


CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || element.closest("script, style, noscript, option")) continue;
    if (element.closest(".tile svg, title")) continue; // white on black with a casing
    const style = getComputedStyle(element);
    const ink = parse(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground(element))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walker.currentNode.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


def test_all_text_has_the_contrast_of_wcag_aa(opened, scan_page):
    for path in (scan_page, scan_page.with_name("report.html")):
        page = opened(path)
        page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        found = page.evaluate(CONTRAST)
        assert len(found) > 40
        assert [entry for entry in found if entry[0] < 4.5] == []


def test_outlines_and_colours_differ_in_lightness_not_in_hue_alone(opened, scan_page):
    """In black and white: the right's bars are hatched, and the probability's colours grow lighter all the way."""
    page = opened(scan_page)
    assert page.locator(".bar.right").first.evaluate("(e) => getComputedStyle(e).fill").startswith("url(")
    page.locator("input[data-show=probability]").check()
    bar = """() => { const c = document.querySelector('.scale-bar canvas');
        return Array.from(c.getContext('2d').getImageData(0, 0, 96, 1).data); }"""
    lightness = np.array(page.evaluate(bar)).reshape(-1, 4)[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > -0.6).all() and lightness[-1] - lightness[0] > 120


NAMELESS = """() => [...document.querySelectorAll('canvas, svg, img, input, select, button, a, [role=region]')]
  .filter((e) => e.getAttribute('aria-hidden') !== 'true' && !e.closest('svg svg, [aria-hidden=true]'))
  .filter((e) => !(e.getAttribute('aria-label') || e.getAttribute('alt') || e.textContent.trim()
    || (e.labels && e.labels.length && e.labels[0].textContent.trim()) || e.querySelector('title')))
  .map((e) => e.outerHTML.slice(0, 80))"""


def test_a_screen_reader_finds_landmarks_headings_names_and_headers(opened, scan_page):
    for path in (scan_page, scan_page.with_name("report.html")):
        page = opened(path)
        assert page.locator("html").get_attribute("lang") == "en"
        for landmark in ("header", "nav", "main", "footer"):
            assert page.locator(landmark).count() == 1
        assert page.locator("h1").count() == 1
        levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((h) => Number(h.tagName[1]))")
        assert all(b - a <= 1 for a, b in zip(levels[:-1], levels[1:], strict=True))
        assert page.evaluate(NAMELESS) == []
        for table in page.locator("table").all():
            assert table.locator("caption").inner_text()
            assert table.locator("thead th[scope=col]").count() == table.locator("thead th").count() > 0
            assert table.locator("tbody tr").count() == table.locator("tbody th[scope=row]").count()
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(ids) == len(set(ids))
        for target in page.evaluate("[...document.querySelectorAll('nav a')].map((a) => a.getAttribute('href'))"):
            assert page.locator(target).count() == 1
    page = opened(scan_page)
    page.locator("tr[data-cluster='3'] button").click()
    place(page)
    label = page.locator("[data-plane=axial] canvas").get_attribute("aria-label")
    assert "1 PVS outlined" in label and "z 10.0 mm" in label


def test_without_a_scan_or_a_cluster_the_page_still_works(opened, write_prediction):
    out = write_prediction(cases=("empty",), tables=False, clusters={})
    for file in (out.parent / "data" / "imagesTr").iterdir():
        file.unlink()
    report(out)
    page = opened(out / "empty_report.html")
    assert "The scan was not found" in page.locator("#warnings").inner_text()
    assert "No PVS was found" in page.locator("#warnings").inner_text()
    page.locator("[data-plane=axial] canvas").focus()
    x, y, z = place(page)
    page.keyboard.press("PageUp")
    page.keyboard.press("n")
    assert place(page) == pytest.approx([x, y, z + 2], abs=0.051)


def test_damaged_voxels_are_said_and_the_rest_stays(chromium, scan_page, tmp_path):
    content = re.sub(r'(id="voxels-scan">)[^<]{40}', r"\1" + "A" * 40, scan_page.read_text())
    (tmp_path / "damaged_report.html").write_text(content)
    page = chromium.new_page()
    page.goto((tmp_path / "damaged_report.html").as_uri())
    page.wait_for_selector("#viewer > .empty")
    assert "voxels are damaged" in page.locator("#viewer > .empty").inner_text()
    assert page.locator(".tile").count() > 12
    page.close()


def test_the_group_page_shows_every_column_with_its_line(opened, write_prediction):
    cases = [f"sub-{i:02d}" for i in range(1, 9)]
    out = write_prediction(cases=cases)
    rows = [
        {"scan": c, "region": "whole brain", "count": 10 + 3 * i, "volume_mm3": 50 + i * i, "mean_width_mm": 1.25}
        for i, c in enumerate(cases)
    ]
    rows[3]["count"] = 5000
    write_table(out / "pvs.tsv", rows)
    people = [
        {"participant_id": c, "age": 40 + 5 * i, "site": "AB"[i % 2], "note": f"n{i}"} for i, c in enumerate(cases)
    ]
    people[0]["age"] = "n/a"
    write_table(out.parent / "data" / "participants.tsv", people)
    listed = json.loads((out / "scans.json").read_text())
    listed["scans"].append(
        {"case": "broken", "files": [], "mask": "", "probability": "", "problem": "The <scan> is constant."}
    )
    (out / "scans.json").write_text(json.dumps(listed))
    report(out)
    page = opened(out / "report.html")
    parts = page.locator("#participants")
    assert [h.inner_text() for h in parts.locator("h3").all()] == ["age", "site"]
    assert parts.locator("path.fit").count() == parts.locator("path.band").count() == 2
    assert (
        "slope" in parts.locator("figcaption").first.inner_text()
        and "n 7" in parts.locator("figcaption").first.inner_text()
    )
    assert parts.locator("path.mean").count() == 4
    assert "sub-04" in page.locator("#outliers tbody").inner_text()
    assert "The <scan> is constant." in page.locator("#failed tbody").inner_text()
    assert page.locator("#scans tbody tr").count() == 8
    parts.locator("circle.point").first.click()
    page.wait_for_selector("html[data-viewer=ready]")
    assert page.locator("h1").inner_text() == "Perivascular spaces: sub-02"
