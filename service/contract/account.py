"""The account of a fold: what became of each BatchNorm, how, or why it stayed.

In: the block `fold` of a manifest.  Out: a `FoldAccount`, whose counts are those of its sites.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from service.contract.strict import Name, NonNegative, Strict


class FoldSite(Strict):
    """What became of one BatchNormalization: `how` it went, or the `reason` why it stayed.

    A reduced one became an Add per channel.  `error_bound` is what the fold may add, relative to the
    largest numbers in the BatchNorm's own arithmetic; the rest is its statistics' health, over its channels.
    """

    name: Name
    status: Literal["folded", "reduced", "declined"]
    how: str | None = None
    reason: str | None = None
    error_bound: NonNegative | None = None
    channels: Annotated[int, Field(ge=0)] | None = None
    smallest_variance: float | None = None
    largest_gain: NonNegative | None = None
    dead_channels: Annotated[int, Field(ge=0)] | None = None
    negative_gammas: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _says_how_or_why(self) -> Self:
        stays = self.status == "declined"
        if (self.how is not None, self.reason is not None) != (not stays, stays):
            raise ValueError(f"what went says how, what was declined its reason; got {self.status}")
        return self


class FoldAccount(Strict):
    """One entry for each BatchNormalization found; nothing is left out.

    `per_channel` has one for each chain of Mul, Add, Sub and Div by constants that acts as a BatchNorm, named
    after its first op (since version 4; left out where there is none).  The counts are of the others.
    """

    found: Annotated[int, Field(ge=0)]
    folded: Annotated[int, Field(ge=0)]
    reduced: Annotated[int, Field(ge=0)] = 0
    declined: Annotated[int, Field(ge=0)]
    sites: list[FoldSite]
    per_channel: list[FoldSite] = Field(default_factory=list)

    @model_serializer(mode="wrap")
    def _without_what_says_nothing(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        facts: dict[str, Any] = dump(self)
        if not self.per_channel:
            facts.pop("per_channel", None)
        return facts

    @property
    def per_channel_folded(self) -> int:
        """How many of the chains are gone, or have become an Add."""
        return sum(site.status != "declined" for site in self.per_channel)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        statuses = [site.status for site in self.sites]
        kinds = [statuses.count("folded"), statuses.count("reduced"), statuses.count("declined")]
        counted = (len(statuses), *kinds)
        if counted != (self.found, self.folded, self.reduced, self.declined):
            raise ValueError(f"found, folded, reduced, declined must be {counted}, as the sites say")
        return self
