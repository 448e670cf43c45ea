"""Figures as PNG, and in a page."""

from __future__ import annotations

import base64

import pytest

from nnkd.figures import embedded, labelled, new_figure, png, short


def test_a_figure_stands_in_the_page_itself():
    figure, axes = new_figure(2, 1)
    labelled(axes, "title", across="mm")
    picture = png(figure)
    assert picture.startswith(b"\x89PNG")
    head, _, code = embedded(picture).partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(code) == picture
    assert (axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()) == ("title", "mm", "")


def test_names_fit():
    assert short("liver") == "liver"
    assert len(short("x" * 40)) == 22


@pytest.mark.parametrize("name", ["$\\frac{1$", "$x^$", "a$b$c", "{{7*7}}", "%s"])
def test_names_are_no_formulas(name):
    figure, axes = new_figure(2, 1)
    labelled(axes, name, across=name, up=name)
    axes.set_xticks([0, 1], [name, name])
    axes.bar([0, 1], [1, 2], label=name)
    axes.annotate(name, (0, 1))
    figure.legend()
    assert png(figure).startswith(b"\x89PNG")
