"""A study: its config, parsed and checked. Every other module takes its settings from here."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import ValidationError

from robustgen.config.checks import check_consistency
from robustgen.config.messages import first_message
from robustgen.config.study_blocks import StudyBlocks
from robustgen.errors import UserError


class Study(StudyBlocks):
    """A checked study. Use `parse` to create one, because it also checks the keys together."""

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """Return the study that a config describes, with all defaults.

        Raises:
            UserError: the config has a mistake. One sentence gives the full path of the key, its
                value and what is allowed.
        """
        try:
            study = cls.model_validate(dict(config) if isinstance(config, Mapping) else config)
        except ValidationError as error:
            raise UserError(first_message(error)) from None
        return check_consistency(study)

    def to_config(self) -> dict[str, Any]:
        """Return the config with all defaults, without settings of the machine (`downloads`)."""
        methods = {name: method.to_config() for name, method in self.methods.items()}
        manifolds = {name: manifold.to_config() for name, manifold in self.manifolds.items()}
        attacks = {name: attack.to_config() for name, attack in self.attacks.items()}
        threats = {name: threat.to_params() for name, threat in self.threats.items()}
        config = self.model_dump(mode="json", exclude={"downloads", "manifolds"})
        return {
            **config,
            "threats": threats,
            "methods": methods,
            "attacks": attacks,
            **({"manifolds": manifolds} if manifolds else {}),
        }
