"""Event files in the real TensorBoard; the configuration's schema in a JSON-schema validator."""
import json
import pathlib
import re

import jsonschema
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common import SOURCE, check, conclave, own_text


def check_events():
    pathlib.Path("text.txt").write_bytes(own_text()[:20_000])
    conclave("train", SOURCE / "configs" / "tiny.yaml", "run.dir=run", "data.train.0.path=text.txt", "log.every=1", "log.tensorboard=true",
             "train.steps=5", ranks=2)  # fmt: skip
    events = EventAccumulator("run/tensorboard", size_guidance={"histograms": 0, "compressedHistograms": 0})
    events.Reload()
    tags = events.Tags()
    check({"train/loss", "moe/load_imbalance", "eval/loss"} <= set(tags["scalars"]), "TensorBoard reads the scalars")
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    ours = [json.loads(line) for line in pathlib.Path("run/metrics.jsonl").read_text().splitlines()]
    steps = [(record["step"], record["loss"]) for record in ours if record["type"] == "step"]
    same = len(losses) == 5 and all(a == c and abs(b - d) < 1e-6 * d for (a, b), (c, d) in zip(losses, steps))
    check(same, "they are those of metrics.jsonl")
    heat = [tag for tag in tags["histograms"] if tag.startswith("moe/expert_load/layer_")]
    check(len(heat) >= 1, f"TensorBoard reads the load of experts as histograms: {heat}")
    load = events.Histograms(heat[0])[0].histogram_value
    # Every token's choices, and each expert's own bucket.
    check(load.num == sum(load.bucket) > 0 and load.bucket_limit[-1] == len(load.bucket) - 1.5, "with a bucket for each expert")


class Yaml12(yaml.SafeLoader):
    """1e-6 is a number, as YAML 1.2, editors and conclave read it."""


Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def check_schema():
    schema = json.loads(conclave("config", "schema"))
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    check(True, f"the schema is valid by {validator.META_SCHEMA['$schema']}")
    presets = sorted((SOURCE / "configs").glob("*.yaml"))
    for preset in presets:
        faults = list(validator(schema).iter_errors(yaml.load(preset.read_text(), Yaml12)))
        if faults:
            raise SystemExit(f"FAILED: {preset.name}: {faults[0].json_path}: {faults[0].message}")
    check(len(presets) > 10, f"it accepts {len(presets)} presets")
    for wrong in ({"moe": {"top_kk": 2}}, {"mode": {}}, {"moe": {"top_k": "two"}}, {"moe": {"router": "softmx"}},
                  {"data": {"train": [{"pth": "x"}]}}):  # fmt: skip
        check(not validator(schema).is_valid(wrong), f"it refuses {json.dumps(wrong)}")


if __name__ == "__main__":
    check_events()
    check_schema()
