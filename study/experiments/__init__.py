"""The experiments by name, in the order of the report."""

from study.experiments.batch_size import study_batch_size
from study.experiments.convergence import study_convergence
from study.experiments.depth import study_depth
from study.experiments.devices import study_devices
from study.experiments.initialisation import study_initialisation
from study.experiments.learning_rate import study_learning_rate
from study.experiments.order import study_order
from study.experiments.positive_gamma import study_positive_gamma
from study.experiments.surface import study_surface
from study.finding import Experiments

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
