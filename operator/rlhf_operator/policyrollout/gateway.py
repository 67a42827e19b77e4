"""What a gateway's controller can do: its own word, else a table, unless a setting says it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from rlhf_operator.common.intents import Manifest

from .views import Support

PERCENTAGE = "HTTPRouteRequestPercentageMirror"

MIRRORS_BY_PERCENT: Mapping[str, Support] = {
    "gateway.envoyproxy.io/gatewayclass-controller": Support.YES,
    "istio.io/gateway-controller": Support.YES,
}
"""By controllerName: what was seen to work. Many leave supportedFeatures empty, which says nothing."""

SETTINGS: Mapping[str, Support] = {"supported": Support.YES, "unsupported": Support.NO}


def mirror_support(setting: str, classes: tuple[Manifest | None, ...]) -> Support:
    """Return whether every gateway of a route mirrors a percentage of its requests.

    classes: the GatewayClass of each parent; None where it can't be read.
    """
    if setting in SETTINGS:
        return SETTINGS[setting]
    found = [_of_class(each) if each is not None else Support.UNKNOWN for each in classes]
    for worst in (Support.NO, Support.UNKNOWN):
        if worst in found:
            return worst
    return Support.YES if found else Support.UNKNOWN


def _of_class(gateway_class: Manifest) -> Support:
    features = (gateway_class.get("status") or {}).get("supportedFeatures") or ()
    # A list of names at first, of objects since Gateway API 1.2.
    named = {each.get("name") if isinstance(each, Mapping) else each for each in features}
    if PERCENTAGE in named:
        return Support.YES
    controller = (gateway_class.get("spec") or {}).get("controllerName", "")
    known = MIRRORS_BY_PERCENT.get(controller, Support.UNKNOWN)
    # Who lists its features and leaves this one out has not got it, whatever a former version could do.
    return Support.NO if named else known
