"""Fairseq's wav2vec 2.0 and HuBERT encoders, built from checked arguments alone.

No pre-trained checkpoint, dictionary or label file is looked for, whatever a checkpoint names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from torch import nn

from asrcompress.models.fairseq_adapter import import_fairseq, quiet
from asrcompress.models.wav2vec_arguments import SIZES


def build_wav2vec2_encoder(arguments: dict[str, Any], num_units: int) -> nn.Module:
    """Fairseq's Wav2VecEncoder of wav2vec_ctc with these arguments, which must be checked ones. Weights are random."""
    import_fairseq()
    with quiet():
        import fairseq.models.wav2vec.wav2vec2_asr as asr

        config: Any = asr.Wav2Vec2CtcConfig(normalize=False, data="")
        config.w2v_args = _pretraining("wav2vec2", "audio_pretraining", arguments)
        with _without_random_weights():
            return _for_inference(asr.Wav2VecEncoder(config, num_units))


def build_hubert_encoder(arguments: dict[str, Any], num_units: int) -> nn.Module:
    """Fairseq's HubertEncoder of hubert_ctc with these arguments, which must be checked ones. Weights are random."""
    import_fairseq()
    with quiet():
        import fairseq.models.hubert.hubert_asr as asr

        config: Any = asr.HubertCtcConfig(normalize=False, data="")
        config.autoregressive = False  # the encoder reads it, and no field of the class holds it
        config.w2v_args = _pretraining("hubert", "hubert_pretraining", arguments | {"label_rate": 1.0})
        # A task without dictionaries of its own, so that none is looked for and no embedding of targets is built.
        task = SimpleNamespace(state_dict=lambda: {"dictionaries": [None]}, target_dictionary=range(num_units))
        with _without_random_weights():
            return _for_inference(asr.HubertEncoder(config, task))


def whole_ctc_arguments(arguments: dict[str, Any], family: str) -> dict[str, Any]:
    """The arguments of wav2vec_ctc or hubert_ctc with Fairseq's defaults for the sizes that they leave out."""
    import_fairseq()
    with quiet():
        if family == "hubert_ctc":
            from fairseq.models.hubert.hubert import HubertConfig as Config
        else:
            from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config as Config
    return {name: getattr(Config, name) for name in SIZES if hasattr(Config, name)} | arguments


def initialise(module: Any) -> None:
    """Draw the weights of the transformer inside a CTC model as Fairseq's BERT initialisation does."""
    import_fairseq()
    from fairseq.modules.transformer_sentence_encoder import init_bert_params

    module.w2v_encoder.w2v_model.encoder.apply(init_bert_params)


def _pretraining(model: str, task: str, arguments: dict[str, Any]) -> Any:
    """The configuration of the pre-trained model, as Fairseq keeps it; what `arguments` leaves out is its default."""
    from omegaconf import OmegaConf

    layers = str([tuple(layer) for layer in arguments["conv_feature_layers"]])  # Fairseq evaluates it
    return OmegaConf.create(
        {
            "model": {"_name": model} | arguments | {"conv_feature_layers": layers},
            "task": {"_name": task, "data": "", "normalize": False},
        }
    )


@contextlib.contextmanager
def _without_random_weights() -> Iterator[None]:
    """Leave out Fairseq's BERT initialisation: it cannot run on the meta device, and all of it is overwritten."""
    from fairseq.models.wav2vec import wav2vec2

    initialise = wav2vec2.init_bert_params
    wav2vec2.init_bert_params = lambda module: None
    try:
        yield
    finally:
        wav2vec2.init_bert_params = initialise


def _for_inference(encoder: Any) -> nn.Module:
    """Take away what only training uses: the mask's embedding, weight normalisation, and padding to even lengths."""
    del encoder.w2v_model.mask_emb
    transformer = encoder.w2v_model.encoder
    transformer.required_seq_len_multiple = 1  # a padded frame is masked and changes nothing but the cost
    for module in transformer.pos_conv.modules():
        if hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)
        elif nn.utils.parametrize.is_parametrized(module, "weight"):
            nn.utils.parametrize.remove_parametrizations(module, "weight")
    return encoder
