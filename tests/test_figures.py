"""Figures as PNG, and in a page."""

from __future__ import annotations

import base64

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
