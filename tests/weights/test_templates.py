"""Shapes of parameters that are kept on disk are those that tracing finds."""

import jax
from micro_run import load

from gen1_jax.weights.folder import module_from_config
from gen1_jax.weights.templates import trace_template


def test_the_shapes_that_are_kept_are_those_of_the_module(micro_run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    module = module_from_config(load(micro_run, "autoencoder").model.to_dict())
    traced = trace_template(module)
    (kept,) = (tmp_path / "gen1_jax" / "templates").iterdir()
    whole = kept.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(jax, "eval_shape", None)  # nothing is traced
        assert trace_template(module) == traced
    for damaged in (whole[:-9], '{"a": 1}', "[]"):
        kept.write_text(damaged)
        assert trace_template(module) == traced and kept.read_text() == whole
    trace_template(module.clone(latent_channels=3))
    assert len(list(kept.parent.iterdir())) == 2
