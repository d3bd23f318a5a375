"""Notices: shown once, collected always."""

import warnings

import pytest

from limbeck.system.notices import Notice, collect_notices, display_notices, notify


def test_a_notice_is_a_warning_the_first_time():
    text = "a notice of test_notices.py"
    with pytest.warns(Notice, match=text):
        notify(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notify(text)


def test_a_display_shows_each_notice_once_and_ends_with_its_context():
    shown, text = [], "another notice of test_notices.py"
    for _ in range(2):
        with display_notices(shown.append):
            notify(text)
            notify(text)
    assert shown == [text, text]
    with pytest.warns(Notice, match=text):
        notify(text)


def test_notices_are_collected_again_although_they_are_shown_once():
    with display_notices(lambda text: None), collect_notices() as outer:
        notify("a")
        with collect_notices() as inner:
            notify("b")
            notify("a")
            notify("b")
        notify("c")
    assert inner == ["b", "a"] and outer == ["a", "b", "c"]
