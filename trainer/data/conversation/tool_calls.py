"""Tools on offer and calls of them, in the one form that chat templates read."""

from __future__ import annotations

from typing import Any

from trainer.data.read.row_values import MEANT_NULLS, parsed, without_nulls
from trainer.errors import RowError

Tool = dict[str, Any]
Call = dict[str, Any]


def tools_of(value: object) -> list[Tool] | None:
    """The tools of a row, each `{"type": "function", "function": {...}}`, as a list, as JSON text, or as texts."""
    if not value or value == "[]":
        return None
    tools = parsed(value, "`tools`")
    tools = [parsed(tool, "`tools`") for tool in tools] if isinstance(tools, list) else tools
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError("`tools` must be a list of objects")
    return [_tool(without_nulls(tool, MEANT_NULLS)) for tool in tools] or None


def _tool(tool: Tool) -> Tool:
    tool = tool if "function" in tool else {"type": "function", "function": tool}
    function = tool["function"]
    if isinstance(function, dict) and isinstance(function.get("parameters"), str):
        function = {**function, "parameters": parsed(function["parameters"], "the parameters of a tool")}
    return {"type": "function", **tool, "function": function}


def calls_of(value: object, at: int, tools: list[Tool] | None) -> list[Call]:
    """The calls of message `at`, from a list, one call, or either as JSON text; arguments become objects."""
    calls = parsed(value, f"message {at}: the call")
    calls = calls if isinstance(calls, list) else [calls]
    return [_call(parsed(call, f"message {at}: the call"), at, tools) for call in calls]


def _call(call: object, at: int, tools: list[Tool] | None) -> Call:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(f"message {at}: a call needs `name` and `arguments`")
    given: Any = next((function[key] for key in ("arguments", "parameters") if function.get(key) is not None), {})
    arguments = _without_padding(_arguments(given, at), function["name"], tools)
    about = {k: v for k, v in call.items() if k in ("id", "type") and v is not None and function is not call}
    about |= {"id": call["id"]} if function is call and call.get("id") is not None else {}
    return {"type": "function", **about, "function": {"name": function["name"], "arguments": arguments}}


def _arguments(value: object, at: int) -> dict[str, Any]:
    """Arguments as an object; the OpenAI API writes them as text that holds JSON."""
    if isinstance(value, str) and not value.strip():
        return {}
    for _ in range(2):  # text within text, as after two rounds of writing
        value = parsed(value, f"message {at}: the arguments of a call")
    if not isinstance(value, dict):
        raise RowError(f"message {at}: the arguments of a call must be an object, this is {type(value).__name__}")
    return value


def _without_padding(arguments: dict[str, Any], name: str, tools: list[Tool] | None) -> dict[str, Any]:
    """Without the nulls that a table's union of all rows left behind: those that the tool does not declare."""
    declared = _declared(name, tools)
    if declared is None:
        return arguments
    return {key: value for key, value in arguments.items() if value is not None or key in declared}


def _declared(name: str, tools: list[Tool] | None) -> set[str] | None:
    for tool in tools or []:
        function = tool["function"]
        if isinstance(function, dict) and function.get("name") == name:
            parameters = function.get("parameters")
            properties = parameters.get("properties") if isinstance(parameters, dict) else None
            return set(properties) if isinstance(properties, dict) else None
    return None
