"""A loop in memory, from its first decision: it gets better than its default, and never worse."""

import numpy as np
import pytest
from tests.trainers.simulation import Simulation, World, headline_loop

DECISIONS, STEP = 20_000, 2_500
HEADLINES = World.headlines()
EPSILON = headline_loop(HEADLINES).policy.epsilon


def share_of_gain(simulation: Simulation) -> float:
    """Return which share of the possible gain over the default the loop gets, exploring."""
    world = simulation.world
    default = world.value(np.full(len(simulation.segments), world.default))
    possible = world.value(world.best, EPSILON) - default
    return (world.value(simulation.choice, EPSILON) - default) / possible


def played(seed: int, world: World = HEADLINES) -> Simulation:
    """Return a loop that has decided 20,000 times."""
    simulation = Simulation(world=world, loop=headline_loop(world), seed=seed)
    for _ in simulation.run(DECISIONS // STEP, STEP):
        pass
    return simulation


def is_never_worse(simulation: Simulation) -> bool:
    """Return whether whatever decided was at least as good as the default, by the truth."""
    world = simulation.world
    default = world.value(np.full(len(simulation.segments), world.default))
    return all(world.value(choice) >= default for choice in simulation.choices)


@pytest.mark.slow
def test_headlines_get_most_of_what_they_could() -> None:
    """Best by segment, found under an exploration of a fifth, promoted only once it is better."""
    simulation = played(seed=1)
    assert share_of_gain(simulation) >= 0.8 - 1e-9
    assert is_never_worse(simulation)
    assert simulation.taken_back == []


@pytest.mark.soak
def test_headlines_get_most_of_what_they_could_in_18_of_20_seeds() -> None:
    """And in none of them the loop was ever worse than its default."""
    simulations = [played(seed) for seed in range(20)]
    assert sum(share_of_gain(each) >= 0.8 - 1e-9 for each in simulations) >= 18
    assert all(map(is_never_worse, simulations))


def any_change(seed: int) -> bool:
    """Return whether any of 20 judged candidates of a null world was promoted or taken back."""
    world = World.null(segments=4, actions=3)
    loop = headline_loop(world, epsilon=0.5)
    simulation = Simulation(world=world, loop=loop, seed=seed)
    for _ in simulation.run(60, 500):
        if any(verdict.promoted for verdict in simulation.verdicts):
            return True
        if sum("look" in verdict.metrics for verdict in simulation.verdicts) == 20:
            return False
    raise AssertionError(f"world {seed} has judged fewer than 20 candidates")


@pytest.mark.slow
def test_where_no_headline_is_better_none_is_promoted() -> None:
    """Three null worlds: models that found something in noise."""
    assert sum(map(any_change, range(3))) == 0


@pytest.mark.soak
def test_in_200_null_worlds_at_most_5_percent_ever_promote() -> None:
    """Twenty candidates each; nothing is taken back that was never promoted."""
    assert sum(map(any_change, range(200))) <= 10
