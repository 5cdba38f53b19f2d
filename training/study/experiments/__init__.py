"""The experiments by name, in the order of the report."""

from training.study.experiments.batch_size import study_batch_size
from training.study.experiments.convergence import study_convergence
from training.study.experiments.depth import study_depth
from training.study.experiments.devices import study_devices
from training.study.experiments.initialisation import study_initialisation
from training.study.experiments.learning_rate import study_learning_rate
from training.study.experiments.order import study_order
from training.study.experiments.positive_gamma import study_positive_gamma
from training.study.experiments.surface import study_surface
from training.study.finding import Experiments

EXPERIMENTS: Experiments = {
    "convergence": study_convergence,
    "learning-rate": study_learning_rate,
    "depth": study_depth,
    "initialisation": study_initialisation,
    "batch-size": study_batch_size,
    "devices": study_devices,
    "order": study_order,
    "surface": study_surface,
    "positive-gamma": study_positive_gamma,
}
