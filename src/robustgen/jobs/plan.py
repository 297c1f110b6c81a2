"""Estimates of how long a study takes: the jobs that Snakemake would run, and a machine's speeds.

    python -m robustgen.jobs.plan --configfile config/paper.yaml --cores 16

Attacks on classifiers stop at the first success. The estimate assumes that they run all steps, and
so is an upper limit.
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
from robustgen.io.atomic import atomic_write
from robustgen.jobs.speed_records import DatasetSpeeds, Speeds, missing_speeds
from robustgen.jobs.speeds import measure
from robustgen.specs import GRADIENT_FREE_STEP_RULES, SearchConfig

JOB_PATTERN = re.compile(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", re.MULTILINE)
"""A job in the output of a dry run: its rule and its indented lines."""
ERROR_PATTERN = re.compile(r"\b\w*(Error|Exception)\b|\berror:")
"""The beginning of the reason in the output of a failed Snakemake."""
FORWARD_SHARE = 1 / 3
"""Time of a step without a gradient, as a share of one with it."""
MAX_REASON_CHARACTERS = 300
"""Characters of Snakemake's reason that an error message quotes."""


def parse_jobs(dry_run: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rule and the wildcards of each job that `snakemake --dry-run` lists."""
    for rule, lines in JOB_PATTERN.findall(dry_run):
        match = re.search(r"^    wildcards: (.*)$", lines, re.MULTILINE)
        pairs = match[1].split(", ") if match else []
        yield rule, dict(pair.split("=", 1) for pair in pairs)


def estimate_seconds(
    study: Study, speeds: Speeds, rule: str, wildcards: Mapping[str, str]
) -> float:
    """Estimate the seconds that a job computes, without the start of its process.

    Jobs of rules that take seconds, such as tables and figures, count 0.
    """
    dataset = wildcards.get("dataset", "")
    if dataset not in study.datasets:
        return 0.0
    dataset_speeds = speeds.datasets[dataset]
    models = 1 + int(wildcards["last"]) - int(wildcards["first"]) if "last" in wildcards else 0
    epochs = study.classifier.epochs
    if rule == "train":
        images = models * epochs * int(wildcards["n"])
        return images * _estimate_image_seconds(study, dataset_speeds, wildcards["method"])
    if rule == "judge":
        judge = judge_params(study, dataset)
        return float(judge["n"] * judge["classifier"]["epochs"] * dataset_speeds.s_per_update_image)
    if rule == "vaegan":
        manifold, data = study.manifolds[dataset], study.datasets[dataset]
        images = data.train_examples // (1 if wildcards["part"] == "all" else data.classes)
        return min(images, manifold.images) * manifold.epochs * dataset_speeds.s_per_vaegan_image
    if rule == "attack":
        attack = study.attacks[wildcards["attack"]]
        searches = study.searches_of(attack).values()
        steps = models * attack.examples * sum(map(_count_gradient_steps, searches))
        return steps * dataset_speeds.s_per_attack_step[study.threats[attack.threat].space]
    if rule in ("distances", "clean_distances"):
        steps = max(models, 1) * study.distances.examples * study.distances.steps
        return steps * sum(dataset_speeds.s_per_distance_step.values())
    return 0.0


def _count_gradient_steps(search: SearchConfig) -> float:
    """Return the steps of a search for one image; one without a gradient counts as a third."""
    share = FORWARD_SHARE if search.step_rule in GRADIENT_FREE_STEP_RULES else 1.0
    return search.restarts * search.steps * share


def _estimate_image_seconds(study: Study, dataset_speeds: DatasetSpeeds, method_name: str) -> float:
    """Estimate the seconds per image of an epoch of a training method, for one model."""
    method = study.methods[method_name]
    space = study.space_of(method)
    if space is None:
        return dataset_speeds.s_per_update_image
    # Half of the images are attacked, with a last evaluation after all steps.
    search = dataset_speeds.s_per_training_step[space] * (method.steps + 1) / 2
    return dataset_speeds.s_per_update_image + search


def format_plan(
    study: Study, speeds: Speeds, planned_jobs: list[tuple[str, dict[str, str]]], cores: int
) -> str:
    """Format the plan as a table: jobs and minutes of each stage, and of the whole study."""
    job_counts: dict[str, int] = defaultdict(int)
    stage_seconds: dict[str, float] = defaultdict(float)
    for rule, wildcards in planned_jobs:
        job_seconds = estimate_seconds(study, speeds, rule, wildcards)
        stage = rule if job_seconds else "others"
        job_counts[stage] += 1
        stage_seconds[stage] += speeds.start + job_seconds
    lines = [f"{study.study} on {speeds.machine}", f"{'rule':<18}{'jobs':>6}{'minutes':>10}"]
    for stage in sorted(stage_seconds, key=lambda name: -stage_seconds[name]):
        lines.append(f"{stage:<18}{job_counts[stage]:>6}{stage_seconds[stage] / 60:>10.1f}")
    total, job_count = sum(stage_seconds.values()) / 60, sum(job_counts.values())
    lines.append(f"{'all':<18}{job_count:>6}{total:>10.1f}")
    # On a GPU that jobs share, only their starts run in parallel.
    sequential = total - job_count * speeds.start / 60 if speeds.shared else 0.0
    minutes = sequential + (total - sequential) / cores
    jobs_at_a_time = "1 job" if cores == 1 else f"{cores} jobs"
    lines.append(f"{minutes:.1f} minutes with {jobs_at_a_time} at a time")
    return "\n".join(lines)


def main() -> None:
    """Print the plan of a study, or write the speeds of this machine for a plan elsewhere."""
    parser = argparse.ArgumentParser(prog="python -m robustgen.jobs.plan", description=__doc__)
    parser.add_argument(
        "--configfile",
        "--configfiles",
        type=Path,
        nargs="+",
        default=[Path("config/config.yaml")],
        help="config of the study; later files override the first",
    )
    parser.add_argument("--cores", type=int, default=1, help="number of jobs at a time")
    parser.add_argument(
        "--speeds", type=Path, help="file with the speeds of another machine, by --write-speeds"
    )
    parser.add_argument(
        "--write-speeds", type=Path, help="measure this machine, write its speeds here, and exit"
    )
    try:
        _main(parser.parse_args())
    except UserError as error:
        sys.exit(f"robustgen: {error}")
    except KeyboardInterrupt:
        sys.exit(130)  # the status that shells give a command after Ctrl-C


def _main(options: argparse.Namespace) -> None:
    if options.cores < 1:
        raise UserError(f"--cores is {options.cores}, but must be 1 or more")
    study = Study.parse(read_merged(options.configfile))
    if options.write_speeds:
        if options.speeds:
            raise UserError("--write-speeds measures this machine: leave out --speeds")
        if options.write_speeds.is_dir():
            raise UserError(f"{options.write_speeds} is a folder, but --write-speeds names a file")
        with atomic_write(options.write_speeds) as temporary:
            speeds = measure(study, device.setup(), _report)
            temporary.write_text(speeds.model_dump_json(indent=2), encoding="utf-8")
        return
    speeds_of_file = _read_speeds(options.speeds, study) if options.speeds else None
    planned_jobs = list(parse_jobs(_dry_run(options.configfile)))
    for warning in search_warnings(study):
        print(f"robustgen: {warning}", file=sys.stderr)
    # The measurement takes minutes and therefore comes after everything that can fail.
    speeds = speeds_of_file or measure(study, device.setup(), _report)
    print(format_plan(study, speeds, planned_jobs, options.cores))


def _report(message: str) -> None:
    """Print what is measured to standard error; standard output is for the plan."""
    print(message, file=sys.stderr, flush=True)


def _read_speeds(path: Path, study: Study) -> Speeds:
    """Read a file of speeds.

    Raises:
        UserError: the file is no such file, or has not all speeds that the study needs.
    """
    try:
        speeds = Speeds.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError:
        raise UserError(f"{path} is not a file of speeds as --write-speeds writes them") from None
    if missing := next(missing_speeds(study, speeds), None):
        raise UserError(
            f"{path} has no speed {missing}, but must have it for the study {study.study}; "
            "measure them with its config and --write-speeds"
        )
    return speeds


def _dry_run(configs: Sequence[Path]) -> str:
    """Return the output of a dry run of Snakemake.

    Raises:
        UserError: the dry run failed; the message is that of this package if there is one, and
            otherwise the beginning of Snakemake's.
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
    """Return why a dry run failed, in one sentence."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("robustgen: "):
            return line.removeprefix("robustgen: ")
    if any("No Snakefile found" in line for line in lines):
        return (
            f"{Path.cwd()} has no Snakefile: run this in the folder of the project, or of the "
            "workflow that you deployed"
        )
    first = next((i for i, line in enumerate(lines) if ERROR_PATTERN.search(line)), len(lines) - 1)
    reason = shorten(" ".join(lines[first:]), MAX_REASON_CHARACTERS, placeholder=" ...")
    return f"the dry run of Snakemake failed: {reason or 'it gave no reason'}"


if __name__ == "__main__":
    main()
