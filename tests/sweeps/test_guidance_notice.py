"""Methods of a sweep that are compared at different guidance scales."""

from __future__ import annotations

from limbeck.methods.cds import CDS
from limbeck.methods.csd import CSD
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.sweeps.guidance_notice import notify_different_guidance
from limbeck.system.notices import collect_notices


def notices(*methods) -> list[str]:
    with collect_notices() as found:
        notify_different_guidance(methods)
    return found


def test_different_scales_are_named() -> None:
    (text,) = notices(SDS(100.0), VSD(7.5), SDS(100.0))
    assert "sds 100.0, vsd 7.5" in text and "--method.guidance" in text


def test_equal_scales_and_scales_that_are_studied_are_not() -> None:
    assert notices(SDS(7.5), VSD(7.5)) == []
    assert notices(SDS(7.5), SDS(100.0), VSD(7.5), VSD(50.0)) == []
    assert notices(SDS(7.5), SDS(100.0)) == []
    assert notices(SDS(7.5), CSD()) == []  # which has no such scale
    assert notices() == notices(CDS()) == []
