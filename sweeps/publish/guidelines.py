"""Items of two reporting guidelines, in our own words, and which answer of a run fills each in.

Source: CLAIM 2024 Update, Tejani et al., Radiology: Artificial Intelligence 6 (2024) e240300; TRIPOD+AI, Collins et
al., BMJ 385 (2024) e078378. The topics are abridged: submit the guidelines' own forms.
"""

from __future__ import annotations

from typing import NamedTuple


class Item(NamedTuple):
    """One item."""

    number: str
    topic: str
    answer: str | None = None
    """Name of the answer in `sweeps.publish.answers`; None where no file of a run can answer it."""


CLAIM = (
    Item("1", "identification as a study of artificial intelligence"),
    Item("2", "abstract"),
    Item("3", "background, intended use"),
    Item("4", "aims and hypotheses", "endpoint"),
    Item("5", "prospective or retrospective"),
    Item("6", "goal of the study", "goal"),
    Item("7", "sources of the data", "sources"),
    Item("8", "criteria of inclusion and exclusion", "exclusions"),
    Item("9", "preprocessing", "preprocessing"),
    Item("10", "selection of subsets", "subsets"),
    Item("11", "de-identification"),
    Item("12", "missing data", "missing"),
    Item("13", "acquisition of the images", "acquisition"),
    Item("14", "definition of the reference standard"),
    Item("15", "rationale of the reference standard"),
    Item("16", "who annotated"),
    Item("17", "annotation of the test set"),
    Item("18", "variability between annotators"),
    Item("19", "assignment to partitions", "partitions"),
    Item("20", "level at which partitions are disjoint", "disjoint"),
    Item("21", "sample size", "sample_size"),
    Item("22", "description of the model", "model"),
    Item("23", "software", "software"),
    Item("24", "initial parameters", "initialisation"),
    Item("25", "training", "training"),
    Item("26", "choice of the final model", "selection"),
    Item("27", "ensembles", "ensembles"),
    Item("28", "metrics", "metrics"),
    Item("29", "uncertainty and significance", "uncertainty"),
    Item("30", "robustness and sensitivity", "robustness"),
    Item("31", "explainability"),
    Item("32", "evaluation on internal data", "internal"),
    Item("33", "evaluation on external data", "external"),
    Item("34", "registration of a trial"),
    Item("35", "flow of patients", "flow"),
    Item("36", "characteristics of the cases by partition", "characteristics"),
    Item("37", "performance with its uncertainty", "performance"),
    Item("38", "diagnostic performance and its precision", "confusion"),
    Item("39", "analysis of failures", "failures"),
    Item("40", "limitations", "limitations"),
    Item("41", "implications for practice"),
    Item("42", "protocol, technical details", "protocol"),
    Item("43", "availability of software, model and data", "availability"),
    Item("44", "funding"),
)
"""CLAIM 2024, 44 items."""

TRIPOD = (
    Item("1", "title"),
    Item("2", "abstract"),
    Item("3a", "clinical context"),
    Item("3b", "target population and users"),
    Item("3c", "known health inequalities"),
    Item("4", "objectives", "endpoint"),
    Item("5a", "sources of the data", "sources"),
    Item("5b", "dates"),
    Item("6a", "setting, number and place of centres", "centres"),
    Item("6b", "eligibility", "exclusions"),
    Item("6c", "treatments"),
    Item("7", "preparation of the data", "preprocessing"),
    Item("8a", "outcome and its assessment"),
    Item("8b", "qualification of the assessors"),
    Item("8c", "blinding"),
    Item("9a", "choice of predictors", "model"),
    Item("9b", "definition of predictors", "preprocessing"),
    Item("9c", "qualification for subjective predictors"),
    Item("10", "sample size", "sample_size"),
    Item("11", "missing data", "missing"),
    Item("12a", "use of the data, partitions", "partitions"),
    Item("12b", "handling of predictors", "preprocessing"),
    Item("12c", "type of model, building, internal validation", "training"),
    Item("12d", "heterogeneity between clusters", "centres"),
    Item("12e", "measures of performance", "metrics"),
    Item("12f", "model updating", "updating"),
    Item("12g", "how predictions are computed", "output"),
    Item("13", "class imbalance", "imbalance"),
    Item("14", "fairness", "fairness"),
    Item("15", "output of the model", "output"),
    Item("16", "differences between development and evaluation", "external"),
    Item("17", "ethical approval"),
    Item("18a", "funding"),
    Item("18b", "conflicts of interest"),
    Item("18c", "protocol", "protocol"),
    Item("18d", "registration"),
    Item("18e", "data", "availability"),
    Item("18f", "code", "software"),
    Item("19", "involvement of patients and public"),
    Item("20a", "flow of participants", "flow"),
    Item("20b", "characteristics of participants", "characteristics"),
    Item("20c", "development against evaluation data", "characteristics"),
    Item("21", "numbers in each analysis", "subsets"),
    Item("22", "the full model", "availability"),
    Item("23a", "performance with intervals, by subgroup", "performance"),
    Item("23b", "heterogeneity of performance", "fairness"),
    Item("24", "results of updating", "updating"),
    Item("25", "interpretation"),
    Item("26", "limitations", "limitations"),
    Item("27a", "poor or unavailable input"),
    Item("27b", "interaction with users"),
    Item("27c", "next steps"),
)
"""TRIPOD+AI, 27 items with their parts."""

GUIDELINES = {"CLAIM 2024": CLAIM, "TRIPOD+AI": TRIPOD}
