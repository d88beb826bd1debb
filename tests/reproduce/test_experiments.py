import numpy as np
import pytest
import torch

from rna_watch.reproduce import cost, figure5, figure6, theorem
from rna_watch.reproduce.experiment import Settings
from rna_watch.reproduce.quadratics import METHODS, bound, hardest, linear, residual_left
from rna_watch.reproduce.resnets import DEPTHS, ResNet


def results(module):
    """All parts of the small version."""
    plan = module.plan(Settings(quick=True))
    found = {}
    for part in plan.parts:
        found[part.key] = part.run(found)
    return plan, found


def test_the_bound_holds_and_is_attained():
    """No case lies above Theorem 3.1's bound; the hardest start lies on it, whichever method runs."""
    plan, found = results(theorem)
    assert theorem.violations(found) == []
    for cases in found.values():
        for case in cases:
            for value, rounding in case["hardest"].values():
                assert value == pytest.approx(case["bound"], abs=rounding + 1e-9 * case["bound"])
    assert "to rounding: yes" in plan.tables(found)[0].notes[0]


def test_a_broken_bound_is_told():
    """A residual above the bound is listed, and the table does not say that the bound holds."""
    plan, found = results(theorem)
    case = found["kappa-0.1"][1]
    case["random"]["Nesterov"][0] = [1.01 * case["bound"], 1e-12]
    assert theorem.violations(found) == ["kappa-0.1, N = 5, Nesterov"]
    assert "to rounding: no" in plan.tables(found)[0].notes[0]


@pytest.mark.parametrize("kappa", [0.1, 1e-3])
def test_rounding_explains_what_differs_from_the_bound(kappa):
    """Up to N = 12 the hardest start differs from the bound by no more than the rounding that is reported."""
    for n in range(2, 13):
        values, offset = hardest(kappa, n)
        for method in METHODS.values():
            left = residual_left(*method(linear(values, np.zeros(n)), -offset, n))
            assert abs(left.value - bound(kappa, n)) <= left.rounding + 1e-12


def test_forces_balance_at_the_extrapolated_point():
    """Masses sum to one, the weighted gradients vanish, and the point is the minimum."""
    found = figure5.picture()
    assert sum(found["c"]) == pytest.approx(1.0)
    np.testing.assert_allclose(np.array(found["c"]) @ np.array(found["gradients"]), 0.0, atol=1e-6)
    np.testing.assert_allclose(found["extrapolated"], 0.0, atol=1e-6)
    assert np.linalg.norm(found["iterates"], axis=1).min() > 0.5


def test_regularization_bounds_condition_and_norm():
    """Both stay below their bounds with lambda; both exceed them by far without, and float32 iterates are ruined."""
    found = figure6.path(0.0, 60)
    plain, regular = found["of"]["0"], found["of"]["1e-08"]
    assert max(regular["condition"]) <= 1.001 * (1 + 1e8)
    assert max(regular["norm"]) <= 1582
    assert max(plain["condition"]) > 1e20
    assert max(value for value in plain["norm"] if value is not None) > 1e10
    assert max(value for value in plain["stored"] if value is not None) > 1e3 * max(found["last"])
    assert max(regular["stored"]) < max(found["last"])
    assert all(near < last for near, last in zip(regular["distance"], found["last"], strict=True))


def test_lambdas_are_compared_over_the_same_steps():
    """Medians are over the steps that all could solve, whose number is reported, with the own steps next to it."""
    plan, found = results(figure6)
    of = found["noise-0"]["of"]
    for key, value in (("0", None), ("1e-08", 9.0), ("0.0001", 9.0)):
        for i in range(1, len(of[key]["norm"])):
            for what in ("norm", "distance", "stored"):
                of[key][what][i] = value and value * found["noise-0"]["last"][i]
        of[key]["distance"][0] = of[key]["stored"][0] = 0.5 * found["noise-0"]["last"][0]
    (table,) = plan.tables(found)
    assert [row[4:7] for row in table.rows[:3]] == [("0.5",) * 3, ("0.5", "0.5", "9"), ("0.5", "0.5", "9")]
    assert "noise 0: 1 of 51" in table.notes[0]


@pytest.mark.parametrize("depth", DEPTHS)
def test_networks_have_torchvisions_names(depth):
    """The same keys and shapes as torchvision's, so that its checkpoints fit."""
    from tests.trainers import torchvision_schemas

    torchvision_schemas.declare()
    models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    with torch.device("meta"):
        own, other = ResNet(depth).state_dict(), models.get_model(f"resnet{depth}").state_dict()
    assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in other.items()}


@pytest.mark.parametrize("depth", [18, 50])
def test_networks_compute_what_torchvisions_do(depth):
    """With its weights, its logits."""
    from tests.trainers import torchvision_schemas

    torchvision_schemas.declare()
    models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    torch.manual_seed(0)
    own, other = ResNet(depth, 10).eval(), models.get_model(f"resnet{depth}", num_classes=10).eval()
    own.load_state_dict(other.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(own(images), other(images))


def test_the_cost_is_measured_in_turns():
    """Every round measures every contender; medians and the whole come from them."""
    found = cost.measure(18, side=32, batch=1, rounds=2, device="cpu")
    assert found["parameters"] == 11_689_512
    assert len(found["forward_all_s"]) == len(found["extrapolation_all_s"]) == 2
    assert cost.extrapolation_s(found) > found["store_s"] > 0
