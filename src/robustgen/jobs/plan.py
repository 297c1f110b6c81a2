"""How long a study will take: what Snakemake would run, times how fast the machine is.

    python -m robustgen.jobs.plan --configfile config/paper.yaml --cores 16

Attacks on classifiers end at success; here they count with all iterations, and so at most.
"""

import argparse
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import shorten

from pydantic import ValidationError

from robustgen import device
from robustgen.config.job_params import judge_params
from robustgen.config.search_checks import search_warnings
from robustgen.config.study import Study
from robustgen.config.yaml_files import read_merged
from robustgen.errors import UserError
from robustgen.io.files import whole
from robustgen.jobs.speed_records import OnDataset, Speeds, describe_missing_speeds
from robustgen.jobs.speeds import measure

JOB = re.compile(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", re.MULTILINE)
"""A job in what a dry run prints."""
ERROR = re.compile(r"\b\w*(Error|Exception)\b|\berror:")
"""Begins the reason in what Snakemake prints when it fails."""
LONGEST_REASON = 300
"""Characters of Snakemake's reason in a sentence of ours."""


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
        judge = judge_params(study, dataset)
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
    space = study.space_of(chosen)
    searched = 0.0 if space is None else on.trained[space] * (chosen.steps + 1) / 2
    return on.learned + searched


def format_plan(
    study: Study, speeds: Speeds, planned_jobs: list[tuple[str, dict[str, str]]], cores: int
) -> str:
    """The plan as a table: jobs and time of each stage, and what all of it takes."""
    count: dict[str, int] = defaultdict(int)
    work: dict[str, float] = defaultdict(float)
    for rule, of in planned_jobs:
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
    parser = argparse.ArgumentParser(prog="python -m robustgen.jobs.plan", description=__doc__)
    parser.add_argument(
        "--configfile",
        "--configfiles",
        type=Path,
        nargs="+",
        default=[Path("config/config.yaml")],
        help="the study; of several files, later ones add to the first",
    )
    parser.add_argument("--cores", type=int, default=1, help="jobs at a time")
    parser.add_argument("--speeds", type=Path, help="of another machine, as it wrote them")
    parser.add_argument("--write-speeds", type=Path, help="measure, write them here, and end")
    try:
        _main(parser.parse_args())
    except UserError as error:
        sys.exit(f"robustgen: {error}")
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell reports a command that Ctrl-C ended


def _main(options: argparse.Namespace) -> None:
    if options.cores < 1:
        raise UserError(f"--cores is {options.cores}, but must be 1 or more")
    study = Study.parse(read_merged(options.configfile))
    if options.write_speeds:
        if options.speeds:
            raise UserError("--write-speeds measures this machine: leave out --speeds")
        if options.write_speeds.is_dir():
            raise UserError(f"{options.write_speeds} is a folder, but --write-speeds names a file")
        with whole(options.write_speeds) as partial:
            speeds = measure(study, device.setup(), _report)
            partial.write_text(speeds.model_dump_json(indent=2), encoding="utf-8")
        return
    speeds_of_file = _speeds(options.speeds, study) if options.speeds else None
    listed_jobs = list(jobs(_dry_run(options.configfile)))
    for warning in search_warnings(study):
        print(f"robustgen: {warning}", file=sys.stderr)
    # The measurement takes minutes: it comes after all that can fail.
    speeds = speeds_of_file or measure(study, device.setup(), _report)
    print(format_plan(study, speeds, listed_jobs, options.cores))


def _report(message: str) -> None:
    """Say what is measured. The plan itself goes to the standard output."""
    print(message, file=sys.stderr, flush=True)


def _speeds(path: Path, study: Study) -> Speeds:
    """Speeds from a file, which must be all that the study asks for."""
    try:
        speeds = Speeds.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise UserError(f"{path} holds no speeds as --write-speeds writes them") from None
    if lacking := next(describe_missing_speeds(study, speeds), None):
        raise UserError(
            f"{path} has no speed {lacking}, but must have it for the study {study.study}; "
            "measure them with its config and --write-speeds"
        )
    return speeds


def _dry_run(configs: Sequence[Path]) -> str:
    """The jobs that Snakemake would run, as it lists them.

    Raises:
        UserError: the dry run failed; the sentence is the package's own, or begins Snakemake's.
    """
    command = [sys.executable, "-P", "-m", "snakemake", "--dry-run", "--cores", "1"]
    command += ["--configfile", *map(str, configs)]
    run = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", errors="replace"
    )
    if run.returncode:
        raise UserError(_reason_of_failure(f"{run.stdout}\n{run.stderr}"))
    return run.stdout + run.stderr


def _reason_of_failure(output: str) -> str:
    """Why a dry run failed, in one sentence."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("robustgen: "):
            return line.removeprefix("robustgen: ")
    if any("No Snakefile found" in line for line in lines):
        return (
            f"{Path.cwd()} has no Snakefile: run this in the folder of the project, or of the "
            "workflow that you deployed"
        )
    first = next((i for i, line in enumerate(lines) if ERROR.search(line)), len(lines) - 1)
    reason = shorten(" ".join(lines[first:]), LONGEST_REASON, placeholder=" ...")
    return f"the dry run of Snakemake failed: {reason or 'it gave no reason'}"


if __name__ == "__main__":
    main()
