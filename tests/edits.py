"""Edits of a copied project, by syntax tree and qualified name."""

import ast
from pathlib import Path

Definition = ast.FunctionDef | ast.ClassDef


def read_definition(tree: ast.Module, name: str) -> ast.stmt:
    """Return the function, class or assignment with a qualified name, e.g. `Split.take`."""
    body: list[ast.stmt] = tree.body
    *classes, attribute = name.split(".")
    for class_name in classes:
        (definition,) = (
            node for node in body if isinstance(node, Definition) and node.name == class_name
        )
        body = definition.body
    (statement,) = (node for node in body if attribute in _names(node))
    return statement


def _names(node: ast.stmt) -> list[str]:
    """Return the names that a statement defines."""
    if isinstance(node, Definition):
        return [node.name]
    if isinstance(node, ast.AnnAssign):
        return [ast.unparse(node.target)]
    return (
        [ast.unparse(target).strip("()") for target in node.targets]
        if isinstance(node, ast.Assign)
        else []
    )


def change_code(path: Path, name: str) -> None:
    """Change the code of a definition, but not what it does.

    A function gets a further statement. A constant becomes the element of a list.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node = read_definition(tree, name)
    if isinstance(node, Definition):
        has_docstring = ast.get_docstring(node) is not None
        node.body.insert(int(has_docstring), ast.parse("assert True").body[0])
    else:
        assert isinstance(node, ast.Assign | ast.AnnAssign)
        assert node.value is not None
        node.value = ast.parse(f"[{ast.unparse(node.value)}][0]", mode="eval").body
    write_tree(path, tree)


def change_docstring(path: Path, name: str) -> None:
    """Give a function another docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node = read_definition(tree, name)
    assert isinstance(node, Definition)
    assert ast.get_docstring(node) is not None
    node.body[0] = ast.Expr(ast.Constant("Another docstring."))
    write_tree(path, tree)


def add_comment(path: Path, name: str) -> None:
    """Insert a comment before a definition."""
    text = path.read_text(encoding="utf-8")
    line = read_definition(ast.parse(text), name).lineno
    lines = text.splitlines(keepends=True)
    lines.insert(line - 1, "# a comment\n")
    path.write_text("".join(lines), encoding="utf-8")


def reformat(path: Path) -> None:
    """Write a file without its comments, blank lines and line breaks."""
    write_tree(path, ast.parse(path.read_text(encoding="utf-8")))


def write_tree(path: Path, tree: ast.Module) -> None:
    """Write the code of a tree, which must differ from the text of the file."""
    text = ast.unparse(ast.fix_missing_locations(tree))
    assert text != path.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
