"""The small faults that planted_faults.py can plant in a file, found in its syntax tree."""

import ast
import copy
import math
from dataclasses import dataclass

OUTSIDE = "<module>"
# words, and a check of lengths that are equal anyway
UNREAD_KEYWORDS = (
    "help",
    "metavar",
    "metadata",
    "description",
    "epilog",
    "stacklevel",
    "strict",
    "category",
    "device",
    "zorder",
)  # of devices, a processor knows one only
UNREAD_CALLS = ("logger.", "logging.", "warnings.warn", "print")

TURNED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One change of one file: the characters from start to end (offsets in bytes) become `after`."""

    path: str
    function: str
    in_function: bool  # else in the body of a class or of the module
    line: int
    kind: str
    start: int
    end: int
    before: str
    after: str

    @property
    def name(self) -> str:
        return f"{self.path}:{self.line} {self.kind}: {self.before} -> {self.after.strip()}"

    def plant(self, source: bytes) -> bytes:
        return source[: self.start] + self.after.encode() + source[self.end :]


class FaultFinder(ast.NodeVisitor):
    """Collects every fault that can be planted in one file."""

    def __init__(self, path: str, source: bytes) -> None:
        self.path, self.source, self.scope, self.faults = path, source, [], []
        self.in_function = False
        self.lines = [0]
        for line in source.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.visit(ast.parse(source))

    def add(self, node: ast.AST, kind: str, changed: ast.AST | str) -> None:
        start = self.lines[node.lineno - 1] + node.col_offset
        end = self.lines[node.end_lineno - 1] + node.end_col_offset
        after = changed if isinstance(changed, str) else ast.unparse(ast.fix_missing_locations(changed))
        lines = "\n" * self.source[start:end].count(b"\n")  # every line keeps its number
        if isinstance(node, ast.expr) and not isinstance(node, ast.Constant):
            after = f"({after}{lines})"
        else:
            after += lines
        before = " ".join(self.source[start:end].decode().split())
        function = ".".join(self.scope) or OUTSIDE
        place = (self.path, function, self.in_function, node.lineno)
        self.faults.append(Fault(*place, kind, start, end, before, after))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self.visit(default)
        self.scope.append(node.name)
        outer, self.in_function = self.in_function, True
        for statement in node.body:
            self.visit(statement)
        self.in_function = outer
        self.scope.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.scope.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.scope.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if not any(isinstance(target, ast.Name) and target.id.startswith("__") for target in node.targets):
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """A message is not read for its words."""

    visit_JoinedStr = visit_Raise

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            return
        self.negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    def negate(self, test: ast.expr) -> None:
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            self.add(test, "condition negated", test.operand)
        elif not (isinstance(test, ast.Compare) and len(test.ops) == 1):  # turned below
            self.add(test, "condition negated", ast.UnaryOp(ast.Not(), test))

    def visit_Compare(self, node: ast.Compare) -> None:
        changed = copy.deepcopy(node)
        changed.ops[0] = TURNED[type(node.ops[0])]()  # type: ignore[call-overload]
        self.add(node, "comparison turned", changed)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.add(node, "and / or", ast.BoolOp(TURNED[type(node.op)](), node.values))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        texts = any(isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", None), str) for side in
                    (node.left, node.right))  # fmt: skip
        if type(node.op) in TURNED and not texts:
            self.add(node, "operator", ast.BinOp(node.left, TURNED[type(node.op)](), node.right))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.add(node, "True / False", repr(not node.value))
        elif isinstance(node.value, int):
            self.add(node, "number", repr(node.value + 1))
        elif isinstance(node.value, float):
            self.add(node, "number", repr(node.value * 1.02 if node.value and math.isfinite(node.value) else 1.0))

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func)
        if name.startswith(UNREAD_CALLS) or name.endswith("Error"):
            return
        for index, keyword in enumerate(node.keywords):
            if keyword.arg is not None and keyword.arg not in UNREAD_KEYWORDS and name != "field":
                changed = copy.deepcopy(node)
                del changed.keywords[index]
                self.add(node, "argument left out", changed)
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in UNREAD_KEYWORDS:
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return
        before = len(self.faults)
        self.generic_visit(node)
        if isinstance(node.value, ast.Call) and not ast.unparse(node.value).startswith(UNREAD_CALLS):
            self.faults.insert(before, self._without(node))

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.faults.append(self._without(node))
        self.visit(node.value)

    def _without(self, node: ast.stmt) -> Fault:
        self.add(node, "statement left out", "pass")
        return self.faults.pop()

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            return
        if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self.add(node, "return of None", "return None")
        self.visit(node.value)

    def visit_Slice(self, node: ast.Slice) -> None:
        for bound in (node.lower, node.upper):
            if isinstance(bound, ast.Name | ast.Attribute):
                self.add(bound, "slice one longer", ast.BinOp(bound, ast.Add(), ast.Constant(1)))
        self.generic_visit(node)
