"""The one builder of networks, the names it knows, and the genotypes that ship."""

from __future__ import annotations

import json

import pytest
import torch

from nni_nastc.errors import GenotypeError, ModelError
from nni_nastc.genotype import Genotype
from nni_nastc.models import (
    METHODS,
    SEARCH_SPACES,
    NetworkSpec,
    build_model,
    check_model_timesteps,
    find_network,
    shipped_genotypes,
)
from tests.helpers import fill

SPECS = {
    **{name: NetworkSpec(name, num_classes=3, in_channels=24, num_layers=1, num_groups=3) for name in METHODS},
    "nas_tc": NetworkSpec(Genotype.random(2), num_classes=3, in_channels=24, num_layers=2, num_groups=2),
}


@pytest.mark.parametrize("name", shipped_genotypes())
def test_shipped_genotypes_tell_how_they_were_found(name):
    genotype = find_network(name)
    assert isinstance(genotype, Genotype)
    assert len(genotype.origin) > 20, f"{name} must say how it was found, its origin is {genotype.origin!r}"
    assert "zero" not in genotype.operations
    assert name not in METHODS, f"the name {name} is taken by a method"


def test_shipped_genotypes_are_the_files():
    assert shipped_genotypes() == tuple(sorted(path.stem for path in (SEARCH_SPACES / "genotypes").iterdir()))


def test_a_network_is_found_by_name_by_file_and_by_folder(tmp_path):
    genotype = Genotype.random(3)
    genotype.to_json(tmp_path / "genotype.json")
    assert find_network("pool") == "pool"
    assert find_network(str(tmp_path)) == genotype
    assert find_network(str(tmp_path / "genotype.json")) == genotype
    assert find_network("random_cell:3") == genotype
    assert find_network("random_cell:3").origin == "drawn at random with seed 3"
    with pytest.raises(ModelError, match="no network is called 'sep_conv3'.*did you mean sep_conv_3"):
        find_network("sep_conv3")
    with pytest.raises(GenotypeError, match=r"no such file: .*none\.json"):
        find_network(str(tmp_path / "none.json"))


@pytest.mark.parametrize("name", SPECS)
def test_a_specification_survives_json(name):
    spec = SPECS[name]
    again = NetworkSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.name == name
    one, other = build_model(spec).eval(), build_model(again).eval()
    fill(one)
    other.load_state_dict(one.state_dict(), strict=True)
    x = torch.randn(2, 24, 12, 2, 2)
    assert torch.equal(one(x), other(x))
    assert one(x).shape == (2, 3)


@pytest.mark.parametrize("name", ["pool", "nas_tc"])
def test_only_nas_tc_sees_the_order(name):
    network = build_model(SPECS[name]).eval()
    fill(network)
    x = torch.randn(2, 24, 8, 2, 2)
    same = torch.allclose(network(x), network(x.flip(2)), atol=1e-5)
    assert same == (name == "pool")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("time_ception", "did you mean timeception"),
        ("super-events", "did you mean super_events"),
        ("videogram", "did you mean videograph"),
        ("random_cell", "did you mean random_cell:SEED"),
        ("random_cell:two", "with a number from 0, got 'two'"),
        ("random_cell:-1", "with a number from 0, got '-1'"),
    ],
)
def test_names_that_are_nearly_right(name, message):
    with pytest.raises(ModelError, match=message):
        find_network(name)


def test_groups_by_default_are_those_of_nas_tc():
    network = build_model(NetworkSpec("timeception", 3, 384, num_layers=1))
    assert network.layers[0].num_groups == 3


def test_what_is_no_network_is_refused():
    with pytest.raises(ModelError, match="no network is called 'poll'.*did you mean pool"):
        build_model(NetworkSpec("poll", 3, 24))
    with pytest.raises(ModelError, match="not the specification of a network.*'layers'"):
        NetworkSpec.from_dict({"network": "pool", "num_classes": 3, "in_channels": 24, "layers": 2})
    with pytest.raises(ModelError, match="T = 6 with L = 2"):
        check_model_timesteps(SPECS["nas_tc"], 6)
    check_model_timesteps(SPECS["pool"], 6)
