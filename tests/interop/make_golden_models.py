#!/usr/bin/env python3
"""Makes tests/interop/golden/<model>/: tiny random models by transformers, and what PyTorch computes with them.

  /path/to/venv/bin/python tests/interop/make_golden_models.py     (launch/setup-interop.sh makes the environment)

Each folder holds config.json and model.safetensors as transformers saves them, and reference.safetensors:
  tokens               int32 [B, S + 1]   inputs are the first S of each row, targets the last S
  logits               fp32 [B, S, V]
  loss                 fp32 [1]           mean cross-entropy, nats a token
  gradient/<name>      fp32               of that loss, by the names in model.safetensors
  balance/<layer>      fp32 [1]           load_balancing_loss_func of that layer's router logits alone
  adamw_losses         fp32 [20]          loss before each of 20 steps of torch.optim.AdamW on the same batch
and the settings of those steps in its metadata. Sizes are odd where they may be, so that no two are alike.
"""
import json
import pathlib
import shutil

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import MixtralConfig, MixtralForCausalLM, OlmoeConfig, OlmoeForCausalLM
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

GOLDEN = pathlib.Path(__file__).parent / "golden"
BATCH, LENGTH, VOCABULARY = 4, 11, 37
STEPS, RATE, DECAY, BETAS, EPSILON = 20, 3e-3, 0.1, (0.9, 0.95), 1e-8

COMMON = dict(
    vocab_size=VOCABULARY,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=32,
    num_experts_per_tok=2,
    router_aux_loss_coef=0.02,
    # Far from the usual 0.02, so that experts, norms and positions matter.
    initializer_range=0.3,
    attention_dropout=0.0,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
    use_cache=False,
)

MODELS = {
    "mixtral": lambda: MixtralForCausalLM(
        MixtralConfig(
            **COMMON,
            hidden_size=16,
            intermediate_size=10,
            num_local_experts=5,
            rope_theta=1000.0,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            sliding_window=None,
        )
    ),
    # Heads wider than the model, a dense block before one with experts, tied embeddings.
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **COMMON,
            hidden_size=12,
            head_dim=6,
            intermediate_size=14,
            moe_intermediate_size=6,
            num_experts=6,
            decoder_sparse_step=2,
            norm_topk_prob=True,
            rope_theta=500.0,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
        )
    ),
    "olmoe": lambda: OlmoeForCausalLM(
        OlmoeConfig(
            **COMMON,
            hidden_size=16,
            intermediate_size=6,
            num_experts=7,
            norm_topk_prob=False,
            rope_theta=10000.0,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
        )
    ),
}


def saved_tensors(directory):
    with safe_open(directory / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def spread_norms(model):
    """Norms away from 1, where a missing one could hide."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))


def loss_of(model, tokens, **arguments):
    output = model(input_ids=tokens[:, :-1], **arguments)
    logits = output.logits.float()
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1).long())
    return loss, output


def balance_of(router_logits):
    """Of one layer."""
    balance = load_balancing_loss_func((router_logits,), router_logits.shape[-1], COMMON["num_experts_per_tok"])
    return balance.detach().reshape(1)


def gradients_by_saved_name(model, directory):
    """Saves the model with its gradients in place of its weights, so that names and shapes are those of files."""
    values = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
    scratch = directory / "scratch"
    model.save_pretrained(scratch)
    gradients = saved_tensors(scratch)
    shutil.rmtree(scratch)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])
    return gradients


def adamw_losses(model, tokens):
    decays = [p for name, p in model.named_parameters() if "norm" not in name]
    others = [p for name, p in model.named_parameters() if "norm" in name]
    groups = [{"params": decays, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=EPSILON)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss, _ = loss_of(model, tokens)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses)


def make(name, build):
    torch.manual_seed(list(MODELS).index(name) + 1)
    directory = GOLDEN / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    model = build().float().train()
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")  # plain loops; the default wants sizes of multiples of 16 bytes
    spread_norms(model)
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)

    # Rows of one text, as a run cuts it: the last token of one is the first of the next.
    text = torch.randint(0, VOCABULARY, (BATCH * LENGTH + 1,), dtype=torch.int32)
    tokens = text.unfold(0, LENGTH + 1, LENGTH).contiguous()
    loss, output = loss_of(model, tokens, output_router_logits=True)
    loss.backward()
    reference = {"tokens": tokens, "logits": output.logits.detach(), "loss": loss.detach().reshape(1)}
    for layer, logits in enumerate(output.router_logits):
        reference[f"balance/{layer}"] = balance_of(logits)
    for tensor, gradient in gradients_by_saved_name(model, directory).items():
        reference[f"gradient/{tensor}"] = gradient
    reference["adamw_losses"] = adamw_losses(model, tokens)
    settings = dict(steps=STEPS, lr=RATE, weight_decay=DECAY, betas=BETAS, eps=EPSILON)
    metadata = {"adamw": json.dumps(settings)}
    save_file({k: v.contiguous() for k, v in reference.items()}, directory / "reference.safetensors", metadata)
    print(name, "loss", loss.item(), "after", reference["adamw_losses"][-1].item())


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)
    for name, build in MODELS.items():
        make(name, build)
