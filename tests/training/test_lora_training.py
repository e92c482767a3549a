"""A LoRA: it begins as the network itself, and nothing else is trained."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from tiny_unet import flat

from gen1_jax.config import load_config
from gen1_jax.errors import UserError
from gen1_jax.models.transformer import Attention
from gen1_jax.training.lora import TRAINED, LoraModule
from gen1_jax.training.state import choose_trained
from gen1_jax.training_checks import check_settings


class Network(nn.Module):
    """Attention of the two kinds that the UNet has, by the names that it has there."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="proj_in")(x)
        x = Attention(2, name="attentions_0")(x, None)
        return Attention(2, name="temporal_attentions_0")(x, None)


def test_it_begins_as_the_network_and_changes_spatial_attention_alone():
    network, module = Network(), LoraModule(Network(), rank=2)
    x, key = np.random.default_rng(0).normal(size=(2, 3, 8)), jax.random.key(0)
    params = module.init(key, x)["params"]
    own = network.init(key, x)["params"]
    np.testing.assert_array_equal(
        module.apply({"params": params}, x), network.apply({"params": own}, x)
    )
    added = {name: value for name, value in flat(params).items() if name not in flat(own)}
    projections = ("to_q", "to_k", "to_v", "to_out_0")
    assert set(added) == {f"attentions_0/{p}/lora_{x}/kernel" for p in projections for x in "AB"}
    assert all(np.any(value) == ("lora_A" in name) for name, value in added.items())
    assert flat(choose_trained(params, TRAINED)).keys() == added.keys()

    def loss(factor):
        changed = jax.tree.map(lambda p: p, params)
        changed["attentions_0"]["to_v"]["lora_B"]["kernel"] = factor
        return (module.apply({"params": changed}, x) ** 2).sum()

    assert np.abs(jax.grad(loss)(params["attentions_0"]["to_v"]["lora_B"]["kernel"])).max() > 0


def test_only_a_stage_of_the_unet_takes_one():
    config = check_settings(load_config("tiny:customize_lora"))
    assert config.trains == TRAINED and set(TRAINED) <= set(config.merge.new)
    assert check_settings(config).to_dict() == config.to_dict()
    for part, changes in (("clip", ["lora.rank=4"]), ("blur", ["lora.rank=4", "trains=('up',)"])):
        with pytest.raises(UserError, match=f"{part}: lora.rank is 4"):
            check_settings(load_config(f"tiny:{part}", changes))
