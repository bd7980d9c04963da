"""The words and numbers that the rules compare with. They are part of the standards' hash."""

from __future__ import annotations

NAME_MAX = 64
DESCRIPTION_MAX = 1024
LISTED_MAX = 1536
"""Characters of `description` and `when_to_use` together, which is what Claude Code shows of a skill."""
COMPATIBILITY_MAX = 500
LICENSE_MAX = 200
LINES_MAX = 500
TOKENS_MAX = 5000
CHARACTERS_PER_TOKEN = 4
BODY_MIN = 100
REFERENCE_LINES_MAX = 100
SKILL_BYTES_MAX = 30 * 1000 * 1000
LENGTH = (8000, 14000)
ALIKE = 0.8
"""The share of common word triples from which on two skills are near-duplicates."""

KEYS = ("name", "description", "license", "compatibility", "metadata", "allowed-tools")
CLAUDE_KEYS = (
    "when_to_use",
    "argument-hint",
    "arguments",
    "disable-model-invocation",
    "user-invocable",
    "disallowed-tools",
    "model",
    "effort",
    "context",
    "agent",
    "background",
    "hooks",
    "paths",
    "shell",
)
RESERVED_WORDS = ("anthropic", "claude")
TOOLS = (
    "Read",
    "Write",
    "Edit",
    "Bash",
    "Glob",
    "Grep",
    "WebFetch",
    "WebSearch",
    "Task",
    "Agent",
    "TodoWrite",
    "NotebookEdit",
    "AskUserQuestion",
    "Skill",
)
MANIFEST_TYPES: dict[str, tuple[str, ...]] = {
    "name": ("string",),
    "displayName": ("string",),
    "version": ("string",),
    "description": ("string",),
    "author": ("object",),
    "homepage": ("string",),
    "repository": ("string",),
    "license": ("string",),
    "keywords": ("list",),
    "dependencies": ("list",),
    "commands": ("string", "list", "object"),
    "agents": ("string", "list", "object"),
    "skills": ("string", "list", "object"),
    "hooks": ("string", "list", "object"),
    "mcpServers": ("string", "list", "object"),
    "lspServers": ("string", "list", "object"),
    "outputStyles": ("string", "list"),
    "themes": ("string", "list"),
    "monitors": ("string", "list", "object"),
    "channels": ("list",),
    "userConfig": ("object",),
    "settings": ("object",),
    "experimental": ("object",),
    "defaultEnabled": ("boolean",),
    "$schema": ("string",),
}
"""The manifest's known keys, and the types that each may have."""
COMPONENT_KEYS = (
    "commands",
    "agents",
    "skills",
    "hooks",
    "mcpServers",
    "lspServers",
    "outputStyles",
    "themes",
    "monitors",
)
EVENTS = (
    "PreToolUse",
    "PostToolUse",
    "PostToolUseFailure",
    "PostToolBatch",
    "PermissionRequest",
    "PermissionDenied",
    "Notification",
    "UserPromptSubmit",
    "UserPromptExpansion",
    "Stop",
    "StopFailure",
    "SubagentStart",
    "SubagentStop",
    "PreCompact",
    "PostCompact",
    "Elicitation",
    "ElicitationResult",
    "TeammateIdle",
    "TaskCreated",
    "TaskCompleted",
    "Setup",
    "InstructionsLoaded",
    "CwdChanged",
    "FileChanged",
    "ConfigChange",
    "WorktreeCreate",
    "WorktreeRemove",
    "SessionStart",
    "SessionEnd",
    "PreModelSwitch",
    "PostModelSwitch",
    "MessageDisplay",
    "DirectoryAdded",
)
RESERVED_MARKETPLACES = (
    "claude-code-marketplace",
    "claude-code-plugins",
    "claude-plugins-official",
    "anthropic-marketplace",
    "anthropic-plugins",
    "agent-skills",
    "life-sciences",
    "knowledge-work-plugins",
)
