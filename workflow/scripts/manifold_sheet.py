"""Draw reconstructions, samples and interpolations of the VAE-GANs of a learned manifold."""

from robustgen import device
from robustgen.acceleration import backends
from robustgen.data.split import load_split
from robustgen.evaluation.manifold_quality import make_sheet
from robustgen.figures.fonts import drawable_names
from robustgen.figures.manifold import SheetImages, plot_manifold
from robustgen.figures.style import save
from robustgen.jobs.runtime import run_job
from robustgen.models.vaegan import VaeGan
from robustgen.sampling import make_generator

COLUMNS = 8

with run_job(snakemake.log[0], snakemake):
    settings, space = snakemake.params.settings, snakemake.wildcards.space
    compute_device = device.setup()
    backend = backends.for_vaegans(compute_device)
    test = load_split(snakemake.input.images, snakemake.input.examples, "test", compute_device)
    models = [VaeGan.load(path, compute_device, backend) for path in snakemake.input.models]
    samples = make_generator(settings["study_seed"], "sheet", settings["dataset"], space)
    images = SheetImages(**make_sheet(models, test, COLUMNS, samples))
    figure = plot_manifold(drawable_names(test.classes), images)
    save(figure, snakemake.output.png, snakemake.output.pdf)
