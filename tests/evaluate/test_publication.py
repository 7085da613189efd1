"""The paper's tables: what is in the cells, and that no name breaks them."""

from __future__ import annotations

import math
import re
import shutil
import subprocess

import pytest

from mednext_jax.evaluate.publication import latex_table, markdown_table, paper_rows, undefined_notes

pytestmark = pytest.mark.core


def rows(tool="a tool", region="all"):
    place = {"tool": tool, "region": region}
    scores = [
        place | {"score": "dice", "mean": 0.7561, "sd": 0.0349},
        place | {"score": "hd95_mm", "mean": 3.21, "sd": 1.06},
        place | {"score": "recall", "mean": 0.5, "sd": math.nan},
        place | {"score": "precision", "mean": math.nan, "sd": math.nan},
    ]
    statistics = {"icc_2_1": 0.912, "icc_2_1_low": 0.8, "icc_2_1_high": 0.95, "pearson": 0.9}
    without = {"pearson_low": math.nan, "pearson_high": math.nan}
    agreement = [place | {"quantity": name, "n": 12} | statistics | without for name in ("volume_mm3", "count")]
    return scores, agreement


def test_cells_and_columns():
    head, row = paper_rows(*rows())
    cells = dict(zip(head, row, strict=True))
    assert cells["tool"] == "a tool" and cells["region"] == "whole" and cells["scans"] == "12"
    assert cells["Dice"] == "0.76 (0.03)" and cells["HD95 (mm)"] == "3.2 (1.1)" and cells["sensitivity"] == "0.50"
    assert cells["volume ICC(2,1)"] == "0.91 [0.80, 0.95]" and cells["volume r"] == "0.90"
    assert "precision" not in cells  # no value in any row


def test_markdown_holds_names_of_any_letters():
    text = markdown_table([["tool", "Dice"], ["a|b_c*", "0.5 [0, 1]"]], ["a note"])
    assert text.splitlines()[2] == r"| a\|b\_c\* | 0.5 [0, 1] |" and text.endswith("\n- a note\n")
    assert len({len(line) for line in text.splitlines()[:3]}) == 1
    assert r"[a]\(b)" in markdown_table([["[a](b)"], ["x"]])


def test_latex_escapes_what_it_would_run():
    name = r"50%_\input{x}$a^2~&#"
    text = latex_table([["tool", "Dice"], [name, "0.76 (0.03)"]], ["95 % of scans."], "Scores.")
    line = text.splitlines()[9]
    assert line == r"    50\%\_\textbackslash{}input\{x\}\$a\textasciicircum{}2\textasciitilde{}\&\# & 0.76 (0.03) \\"
    assert r"\caption{Scores. 95 \% of scans.}" in text and r"\begin{tabular}{lr}" in text
    assert r"{llr}" in latex_table([["a", "b", "c"]], words=2)


def cells_of(text):
    """The rows of cells of the one table in `text`, which a strict parser must take: environments and braces closed."""
    latexwalker = pytest.importorskip("pylatexenc.latexwalker")
    nodes, _, length = latexwalker.LatexWalker(text, tolerant_parsing=False).get_latex_nodes()
    assert length == len(text)

    def environments(nodes):
        for node in nodes or ():
            if isinstance(node, latexwalker.LatexEnvironmentNode):
                yield node
            yield from environments(getattr(node, "nodelist", None))
            for argument in getattr(getattr(node, "nodeargd", None), "argnlist", None) or ():
                yield from environments([argument] if argument is not None else ())

    table, tabular = environments(nodes)
    assert (table.environmentname, tabular.environmentname) == ("table", "tabular")
    body = "".join(node.latex_verbatim() for node in tabular.nodelist)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert body.count(rule) == 1
        body = body.replace(rule, "")
    *lines, last = body.split(r" \\" + "\n")
    assert not last.strip()
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", line)] for line in lines]


NAMES = ("SHIVA-PVS", r"50%_\input{x}$a^2~&#", "}{", r"\end{tabular}", "a\\\\b ± <é>", "{", "% x", "[x]", "*")


def table_of(name):
    table = paper_rows(*rows(name, name))
    return table, latex_table(table, [f"note of {name}"], f"Caption of {name}.", words=2)


@pytest.mark.parametrize("name", NAMES)
def test_latex_of_any_name_is_one_table_of_as_many_cells(name):
    table, text = table_of(name)
    found = cells_of(text)
    assert len(found) == 2 and [len(row) for row in found] == [len(table[0])] * 2
    assert found[0][0] == "tool" and found[1][2] == "12"


def test_latex_itself_takes_the_tables(tmp_path):
    program = shutil.which("pdflatex")
    if program is None:
        pytest.skip("there is no TeX on this machine")
    tables = "".join(table_of(name)[1] for name in NAMES)
    start = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    (tmp_path / "paper.tex").write_text(f"{start}\n{tables}\\end{{document}}\n", encoding="utf-8")
    command = [program, "-halt-on-error", "-interaction=nonstopmode", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=300)
    assert done.returncode == 0 and (tmp_path / "paper.pdf").is_file(), done.stdout[-2000:]
    assert "Overfull" not in done.stdout and "Missing character" not in (tmp_path / "paper.log").read_text("latin-1")


def test_names_of_files_steer_nothing():
    _, row = paper_rows(*rows("a\x1b[31m", "wm\n"))
    assert row[:2] == [r"a\x1b[31m", r"wm\n"]


def test_notes_of_empty_cases():
    empty = {"tool": "t", "region": "all", "cases": 9, "empty_in_both": 2, "empty_prediction_only": 0}
    (note,) = undefined_notes([empty | {"empty_reference_only": 1}])
    assert (
        note.startswith("t, whole: of 9 scans 2 without PVS in either mask") and "1 with none in the reference" in note
    )
    assert undefined_notes([empty | {"empty_in_both": 0, "empty_reference_only": 0}]) == []
