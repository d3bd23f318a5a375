"""Methods with few network calls, for tests that ask only whether a step works."""

from limbeck.distillation.discriminators.feature import FeatureDiscriminator
from limbeck.methods.base import Method
from limbeck.methods.denoising_student import DenoisingStudent
from limbeck.methods.dsd import DSD
from limbeck.methods.f_distill import FDistill
from limbeck.methods.ids import IDS
from limbeck.methods.jsd import JSD
from limbeck.methods.sdedit import SDEdit
from limbeck.methods.sdi import SDI

#: Those that are long by default.
_SHORT: dict[type[Method], Method] = {
    DenoisingStudent: DenoisingStudent(sampling_steps=2),
    DSD: DSD(ddim_steps=3),
    FDistill: FDistill(discriminator=FeatureDiscriminator(sampling_steps=2)),
    IDS: IDS(regularizations=1),
    JSD: JSD(inversion_steps=3),
    SDEdit: SDEdit(denoise_steps=3),
    SDI: SDI(inversion_steps=3),
}


def short(cls: type[Method]) -> Method:
    """The method with its default options, but for the number of its network calls."""
    return _SHORT[cls] if cls in _SHORT else cls()
