"""How long a study will take: what Snakemake would run, times how fast the machine is.

    python -m robustgen.plan --configfile config/paper.yaml --cores 16

Attacks on classifiers end at success; here they count with all iterations, and so at most.
"""

import argparse
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from robustgen import device
from robustgen.config_files import read
from robustgen.errors import UserError
from robustgen.files import whole
from robustgen.speeds import OnDataset, Speeds, lacks, measure
from robustgen.study import Study

JOB = re.compile(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", re.MULTILINE)
"""A job in what a dry run prints."""


def jobs(dry_run: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Rule and wildcards of each job that `snakemake --dry-run` lists."""
    for rule, lines in JOB.findall(dry_run):
        said = re.search(r"^    wildcards: (.*)$", lines, re.MULTILINE)
        pairs = said[1].split(", ") if said else []
        yield rule, dict(pair.split("=", 1) for pair in pairs)


def seconds(study: Study, speeds: Speeds, rule: str, of: Mapping[str, str]) -> float:
    """What a job takes, in seconds, beyond its start."""
    dataset = of.get("dataset", "")
    if dataset not in study.datasets:
        return 0.0
    on = speeds.datasets[dataset]
    models = 1 + int(of["last"]) - int(of["first"]) if "last" in of else 0
    epochs = study.classifier.epochs
    if rule == "train":
        return models * epochs * int(of["n"]) * _per_image(study, on, of["method"])
    if rule == "judge":
        judge = study.judge_part(dataset)
        return float(judge["n"] * judge["classifier"]["epochs"] * on.learned)
    if rule == "vaegan":
        chosen, data = study.manifolds[dataset], study.datasets[dataset]
        images = data.train_examples // (1 if of["part"] == "all" else data.classes)
        return min(images, chosen.images) * chosen.epochs * on.vaegan
    if rule == "attack":
        attack = study.attacks[of["attack"]]
        iterations = models * attack.examples * attack.restarts * attack.steps
        return iterations * on.searched[study.threats[attack.threat].space]
    if rule in ("distances", "clean_distances"):
        iterations = max(models, 1) * study.distances.examples * study.distances.steps
        return iterations * sum(on.approached.values())
    return 0.0


def _per_image(study: Study, on: OnDataset, method: str) -> float:
    """Seconds of an image in an epoch of a training method, per model."""
    chosen = study.methods[method]
    space = study.space(chosen)
    searched = 0.0 if space is None else on.trained[space] * (chosen.steps + 1) / 2
    return on.learned + searched


def told(study: Study, speeds: Speeds, listed: list[tuple[str, dict[str, str]]], cores: int) -> str:
    """The plan as a table: jobs and time of each stage, and what all of it takes."""
    count: dict[str, int] = defaultdict(int)
    work: dict[str, float] = defaultdict(float)
    for rule, of in listed:
        stage = rule if seconds(study, speeds, rule, of) else "others"
        count[stage] += 1
        work[stage] += speeds.start + seconds(study, speeds, rule, of)
    lines = [f"{study.study} on {speeds.machine}", f"{'stage':<18}{'jobs':>6}{'minutes':>10}"]
    for stage in sorted(work, key=lambda name: -work[name]):
        lines.append(f"{stage:<18}{count[stage]:>6}{work[stage] / 60:>10.1f}")
    total, jobs = sum(work.values()) / 60, sum(count.values())
    lines.append(f"{'all':<18}{jobs:>6}{total:>10.1f}")
    at_once = total - jobs * speeds.start / 60 if speeds.shared else 0.0  # one after the other
    minutes = at_once + (total - at_once) / cores
    lines.append(f"{minutes:.1f} minutes with {cores} jobs at a time")
    return "\n".join(lines)


def main() -> None:
    """Print the plan of a study; or write the speeds of this machine, for a plan elsewhere."""
    parser = argparse.ArgumentParser(prog="python -m robustgen.plan", description=__doc__)
    parser.add_argument("--configfile", type=Path, default=Path("config/config.yaml"))
    parser.add_argument("--cores", type=int, default=1, help="jobs at a time")
    parser.add_argument("--speeds", type=Path, help="of another machine, as it wrote them")
    parser.add_argument("--write-speeds", type=Path, help="measure, write them here, and end")
    given = parser.parse_args()
    try:
        _main(given)
    except UserError as error:
        sys.exit(f"robustgen: {error}")


def _main(given: argparse.Namespace) -> None:
    if given.cores < 1:
        raise UserError(f"--cores is {given.cores}, but must be 1 or more")
    study = Study.parse(read(given.configfile))
    if given.write_speeds:
        if given.speeds:
            raise UserError("--write-speeds measures this machine: leave out --speeds")
        if given.write_speeds.is_dir():
            raise UserError(f"{given.write_speeds} is a folder, but --write-speeds names a file")
        with whole(given.write_speeds) as partial:
            measured = measure(study, device.setup())
            partial.write_text(measured.model_dump_json(indent=2), encoding="utf-8")
        return
    speeds = _speeds(given.speeds, study) if given.speeds else measure(study, device.setup())
    print(told(study, speeds, list(jobs(_dry_run(given.configfile))), given.cores))


def _speeds(path: Path, study: Study) -> Speeds:
    """Speeds from a file, which must be all that the study asks for."""
    try:
        speeds = Speeds.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise UserError(f"{path} holds no speeds as --write-speeds writes them") from None
    if lacking := next(lacks(study, speeds), None):
        raise UserError(
            f"{path} has no speed {lacking}, but must have it for the study {study.study}; "
            "measure them with its config and --write-speeds"
        )
    return speeds


def _dry_run(config: Path) -> str:
    """What Snakemake would run."""
    command = ["snakemake", "--dry-run", "--cores", "1", "--configfile", str(config)]
    made = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    if made.returncode:
        raise UserError(made.stderr.strip().splitlines()[-1].removeprefix("robustgen: "))
    return made.stdout + made.stderr


if __name__ == "__main__":
    main()
