"""The classes of River that a state may hold, and the attributes that are written of each."""

from river import drift, facto, forest, metrics, optim, preprocessing, proba, stats, tree
from river.forest import adaptive_random_forest as arf
from river.metrics.confusion import ConfusionMatrix
from river.tree.nodes import (
    arf_htc_nodes,
    arf_htr_nodes,
    branch,
    hatc_nodes,
    hatr_nodes,
    htc_nodes,
    htr_nodes,
)
from river.tree.splitter import ebst_splitter, nominal_splitter_reg

from tidemill.trainers.learners.river_trees import (
    AdaptiveTreeClassifier,
    CategorySplitter,
    ClassSplitter,
)

_TREE = (
    "_root",
    "_n_active_leaves",
    "_n_inactive_leaves",
    "_inactive_leaf_size_estimate",
    "_active_leaf_size_estimate",
    "_size_estimate_overhead_fraction",
    "_growth_allowed",
    "_train_weight_seen_by_model",
)
_ADAPTIVE = ("_n_alternate_trees", "_n_pruned_alternate_trees", "_n_switch_alternate_trees", "_rng")
_FOREST = (
    "data",
    "max_features",
    "_rng",
    "_warning_detectors",
    "_drift_detectors",
    "_background",
    "_metrics",
    "_warning_tracker",
    "_drift_tracker",
)
_MACHINE = (
    "intercept",
    "latent_initializer",
    "weights",
    "latents",
    "weight_optimizer",
    "latent_optimizer",
)
_LEAF = ("stats", "depth", "splitters", "_disabled_attrs", "_last_split_attempt_at")
_RANDOM_LEAF = (*_LEAF, "max_features", "feature_indices")
_BRANCH = ("children", "stats", "feature", "depth")
_NUMERIC, _BINARY = (*_BRANCH, "threshold"), (*_BRANCH, "value")
_MULTIWAY = (*_BRANCH, "_mapping", "_r_mapping")
_CLASS_ERROR = ("drift_detector", "_alternate_tree", "_mean_error")
_ERROR = ("drift_detector", "_alternate_tree", "_error_tracker")

MODELS: dict[type, tuple[str, ...]] = {
    tree.HoeffdingTreeClassifier: (*_TREE, "classes"),
    tree.HoeffdingTreeRegressor: _TREE,
    AdaptiveTreeClassifier: (*_TREE, "classes", *_ADAPTIVE),
    tree.HoeffdingAdaptiveTreeRegressor: (*_TREE, *_ADAPTIVE),
    forest.ARFClassifier: _FOREST,
    forest.ARFRegressor: (*_FOREST, "_drift_norm"),
    arf.BaseTreeClassifier: (*_TREE, "classes", "max_features"),
    arf.BaseTreeRegressor: (*_TREE, "max_features"),
    facto.FMClassifier: _MACHINE,
    facto.FMRegressor: _MACHINE,
    preprocessing.StandardScaler: ("counts", "means", "vars"),
}
"""What is written of a model; its other attributes are settings."""

PARTS: dict[type, tuple[str, ...]] = {
    htc_nodes.LeafMajorityClass: _LEAF,
    htr_nodes.LeafMean: _LEAF,
    arf_htc_nodes.RandomLeafMajorityClass: _RANDOM_LEAF,
    arf_htr_nodes.RandomLeafMean: _RANDOM_LEAF,
    hatc_nodes.AdaLeafClassifier: (
        *_LEAF,
        "_mc_correct_weight",
        "_nb_correct_weight",
        "drift_detector",
        "_mean_error",
    ),
    hatr_nodes.AdaLeafRegMean: (*_LEAF, "drift_detector", "_error_tracker"),
    branch.NumericBinaryBranch: _NUMERIC,
    branch.NominalBinaryBranch: _BINARY,
    branch.NominalMultiwayBranch: _MULTIWAY,
    hatc_nodes.AdaNumBinaryBranchClass: (*_NUMERIC, *_CLASS_ERROR),
    hatc_nodes.AdaNomBinaryBranchClass: (*_BINARY, *_CLASS_ERROR),
    hatc_nodes.AdaNomMultiwayBranchClass: (*_MULTIWAY, *_CLASS_ERROR),
    hatr_nodes.AdaNumBinaryBranchReg: (*_NUMERIC, *_ERROR),
    hatr_nodes.AdaNomBinaryBranchReg: (*_BINARY, *_ERROR),
    hatr_nodes.AdaNomMultiwayBranchReg: (*_MULTIWAY, *_ERROR),
    ClassSplitter: (
        "_min_per_class",
        "_max_per_class",
        "_att_dist_per_class",
        "n_splits",
        "categories",
    ),
    CategorySplitter: (
        "_total_weight_observed",
        "_missing_weight_observed",
        "_att_dist_per_class",
        "_att_values",
    ),
    nominal_splitter_reg.NominalSplitterReg: ("_statistics",),
    tree.splitter.TEBSTSplitter: ("_root", "digits"),
    ebst_splitter.EBSTNode: ("att_val", "estimator", "_left", "_right"),
    stats.Mean: ("n", "_mean"),
    stats.Var: ("ddof", "mean", "_S"),
    proba.Gaussian: ("_var",),
    drift.ADWIN: (
        "_drift_detected",
        "delta",
        "clock",
        "max_buckets",
        "min_window_length",
        "grace_period",
        "_helper",
    ),
    metrics.Accuracy: ("cm",),
    metrics.MSE: ("_mean",),
    ConfusionMatrix: (
        "_init_classes",
        "sum_row",
        "sum_col",
        "data",
        "n_samples",
        "total_weight",
        "_total_true_positives",
    ),
    optim.SGD: ("lr", "n_iterations"),
    optim.schedulers.Constant: ("learning_rate",),
    optim.initializers.Normal: ("mu", "sigma", "seed", "_rng"),
}
"""What is written of a part of a model: all of it but `REMADE`."""

REMADE = frozenset({"splitter", "rng", "_update_estimator"})
"""Attributes that a part shares with its model, or that follow from its class."""
UNUSED = {proba.Gaussian: frozenset({"seed", "_rng"})}  # 2.5 kB each, only for sampling
FIELDS = MODELS | PARTS
NAMES = {kind.__name__: kind for kind in FIELDS}
WINDOW = type(drift.ADWIN()._helper)
BARE = (htc_nodes.HTLeaf, branch.DTBranch, ebst_splitter.EBSTNode, optim.schedulers.Constant)
"""Their constructors want arguments."""
