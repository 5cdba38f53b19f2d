"""The experiments by name, in the order of the report."""

from study.experiments.batch_size import study_batch_size
from study.experiments.convergence import study_convergence
from study.experiments.depth import study_depth
from study.experiments.devices import study_devices
from study.experiments.imbalance import study_imbalance
from study.experiments.initialisation import study_initialisation
from study.experiments.learning_rate import study_learning_rate
from study.experiments.minima import study_minima
from study.experiments.order import study_order
from study.experiments.positive_gamma import study_positive_gamma
from study.experiments.saturation import study_saturation
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
    "saturation": study_saturation,
    "imbalance": study_imbalance,
    "surface": study_surface,
    "minima": study_minima,
    "positive-gamma": study_positive_gamma,
}
