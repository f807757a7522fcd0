"""The speaker encoder against the reference."""

from __future__ import annotations

import torch

from cosyforge.cosyvoice.config import SpeakerEncoderConfig
from cosyforge.cosyvoice.speaker_encoder import SpeakerEncoder

from .conftest import LoadJson, LoadTensors


@torch.no_grad()
def test_vectors_match(load_json: LoadJson, load_tensors: LoadTensors) -> None:
    config = load_json("campplus")["config"]
    network = SpeakerEncoder(
        SpeakerEncoderConfig(
            feat_dim=config["feat_dim"],
            embedding_size=config["emb"],
            growth_rate=config["growth"],
            bn_size=config["bn_size"],
            init_channels=config["init"],
            blocks=tuple(config["blocks"]),
        )
    )
    network.load_state_dict(load_tensors("campplus.state"))
    io = load_tensors("campplus.io")
    torch.testing.assert_close(network.eval()(io["fbank"]), io["embedding"], atol=1e-5, rtol=0)
