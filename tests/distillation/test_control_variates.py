"""The noise as a control variate of the predicted noise."""

import pytest
import torch
from mixture_inputs import SD
from tiny_pipeline import class_conditions, f64, make_inputs, max_difference, normal

from limbeck.distillation.state import Stateless
from limbeck.methods.sds import SDS
from limbeck.methods.sjc import SJC
from limbeck.priors.exact import GaussianMixture

#: variances of SDS and of SJC without variance reduction, by t, on Stable Diffusion's schedule
VARIANCES = {0.05: (0.905, 0.002), 0.9: (0.000, 0.972)}


@pytest.mark.parametrize("t", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("c", [1.0, 0.3])
def test_identity_03_the_best_multiple_of_the_noise_to_subtract(t, c):
    """eps_hat - k eps has standard deviation |sigma^2 / (alpha^2 C + sigma^2) - k| over eps.

    SDS is k = 1, SJC without variance reduction k = 0.
    """
    prior = GaussianMixture(f64([[0.3]]), f64([c**0.5]))
    n = 64
    eps = normal(n, 1)
    eps = (eps - eps.mean()) / eps.std(correction=0)  # exact moments, so the law is exact
    s = make_inputs(SD, f64([[1.2]]).expand(n, 1), t, eps, class_conditions(n, (1.0,), (1.0,)))
    alpha, sigma = float(SD.alpha(s.t)[0]), float(SD.sigma(s.t)[0])
    best = sigma**2 / (alpha**2 * c + sigma**2)
    sjc, sds = SJC(1.0, var_red=False)(prior, s, Stateless()), SDS(1.0)(prior, s, Stateless())
    for k in (0.0, 0.5, best, 1.0):
        assert abs(float((sjc - k * s.eps).var(correction=0)) - (best - k) ** 2) < 1e-12
    assert abs(float(sds.var(correction=0)) - (1 - best) ** 2) < 1e-12
    assert (float(sds.var()) < float(sjc.var())) == (sigma**2 > alpha**2 * c)
    if c == 1.0 and t in VARIANCES:
        variances = torch.stack([sds.var(correction=0), sjc.var(correction=0)])
        assert max_difference(variances, f64(list(VARIANCES[t]))) < 1e-3
