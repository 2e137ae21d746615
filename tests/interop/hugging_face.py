"""What transformers makes of an exported model of bytes."""
import torch
from transformers import AutoModelForCausalLM

from common import check


def load(directory, model_type, name):
    """The model, if transformers finds a place for each tensor and a tensor for each place."""
    model, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    clean = not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    size = sum(parameter.numel() for parameter in model.parameters())
    check(clean and model.config.model_type == model_type, f"{name}: transformers loads its {size:,} parameters as {model_type}")
    return model


def loss_sum(model, inputs, targets):
    with torch.no_grad():
        logits = model(input_ids=inputs).logits.float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()


def held_out_loss(model, text, held_out, sequence):
    """Mean over the last `held_out` bytes of the text, nats, in windows of `sequence` as conclave cuts them."""
    begin = len(text) - held_out
    inputs = torch.tensor(list(text[begin - 1 : -1]))
    targets = torch.tensor(list(text[begin:]))
    whole = held_out // sequence * sequence
    total = 0.0
    batches = [part[:whole].view(-1, sequence).split(16) for part in (inputs, targets)]
    for windows in zip(*batches):
        total += loss_sum(model, *windows)
    if whole < held_out:
        total += loss_sum(model, inputs[None, whole:], targets[None, whole:])
    return total / held_out


def greedy(model, prompt, count):
    """The prompt and the `count` bytes that are the most probable, one after the other."""
    ids = torch.tensor([list(prompt)])
    for _ in range(count):
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -1]
        ids = torch.cat([ids, logits.argmax().reshape(1, 1)], dim=1)
    return bytes(ids[0].tolist())
