"""Fused attention, of ONNX and of ONNX Runtime: heads, query/key width and value width as factors of their own.

A head is one unit on every operand. The width d of queries and keys is summed over inside, so a unit of it may go where
its queries or its keys are zero. Scales that default to a function of d are made explicit by the normal form.
"""

from __future__ import annotations

from onnx_mdp.rules.registry import Refusal, View, operand, rule

_MICROSOFT = "com.microsoft"
_TOKENS = "attention is taken over it"


@rule("Attention", why=_TOKENS, zero="v")
def attention(view: View) -> str | Refusal:
    """Grouped queries: each of h key heads serves r query heads."""
    if any(view.has(i) for i in (4, 5, 6)) or len([name for name in view.node.outputs if name]) > 1:
        return Refusal("its cache grows along its own axes")
    if "scale" not in view.node.attributes:
        return Refusal("its scale depends on the width of the queries")
    heads = _head_counts(view)
    if heads is None:
        return Refusal("it does not say how many heads it has")
    queries, keys = heads
    shared = queries // keys
    head, sizes = (f"(h:{keys} r:{shared})", "q_num_heads = |(h r)|; kv_num_heads = |h|") if shared > 1 else ("h", "")
    if shared == 1 and view.rank(0) == 3:
        head, sizes = f"h:{keys}", "q_num_heads = |h|; kv_num_heads = |h|"
    mask = f" {_mask(view, head)}" if view.has(3) else ""
    s = "!s" if view.attr("is_causal", 0) else "s"  # positions are compared with those of the keys
    if view.rank(0) == 4:
        return f"q[b,{head},{s},d] k[b,h,!t,d] v[b,h,t,e]{mask} -> y[b,{head},s,e]; over q|k d"
    return f"q[b,{s},({head} d)] k[b,!t,(h d)] v[b,t,(h e)]{mask} -> y[b,s,({head} e)]; {sizes}; over q|k d"


def _head_counts(view: View) -> tuple[int, int] | None:
    if view.rank(0) == 4:
        return view.shape(0)[1], view.shape(1)[1]
    counts = view.attr("q_num_heads"), view.attr("kv_num_heads")
    return None if None in counts else counts


def _mask(view: View, head: str) -> str:
    """The mask's axes, aligned at the right with batch, heads, queries and keys."""
    names = ["b", head, "s", "!t"][4 - view.rank(3) :]
    return operand("mask", [n if size > 1 else "1" for n, size in zip(names, view.shape(3), strict=True)])


@rule("MultiHeadAttention", domain=_MICROSOFT, why=_TOKENS, zero="v, bias")
def multi_head_attention(view: View) -> str | Refusal:
    """Separate queries, keys and values, with one bias for the three projections."""
    if not (view.has(1) and view.has(2)) or view.rank(0) != 3 or view.rank(1) != 3:
        return Refusal("its queries, keys and values are packed into one tensor")
    if any(view.has(i) for i in (6, 7)) or len([name for name in view.node.outputs if name]) > 1:
        return Refusal("its cache grows along its own axes")
    if "scale" not in view.node.attributes:
        return Refusal("its scale depends on the width of the queries")
    head = f"h:{view.attr('num_heads')}"
    present = range(3, len(view.node.inputs))
    rest = [_multi_head_operand(view, i, head) if view.has(i) else "_" for i in present]
    s = "!s" if view.attr("unidirectional", 0) else "s"  # positions are compared with those of the keys
    b = "!b" if view.has(4) else "b"  # a mask of keys may take many forms
    line = f"q[{b},{s},({head} d)] k[b,!t,({head} d)] v[b,t,({head} e)] {' '.join(rest)}".rstrip()
    return f"{line} -> y[b,s,({head} e)]; num_heads = |h|; over q|k d"


def _multi_head_operand(view: View, i: int, head: str) -> str:
    if i == 3:
        return f"bias[[({head} d) + ({head} d) + ({head} e)]]"
    if i == 4:
        return operand("padding", ["!"] * view.rank(i))
    names = zip(("b", head, "s", "!t"), view.shape(i), strict=True)
    return operand("attention_bias", [name if size > 1 else "1" for name, size in names])


@rule("Attention", domain=_MICROSOFT, why=_TOKENS, zero="x|w, bias")
def packed_attention(view: View) -> str | Refusal:
    """Projects queries, keys and values with one weight, then attends."""
    if view.has(4) or len([name for name in view.node.outputs if name]) > 1:
        return Refusal("its cache grows along its own axes")
    if "scale" not in view.node.attributes or "qkv_hidden_sizes" not in view.node.attributes:
        return Refusal("its scale depends on the width of the queries")
    if view.attr("do_rotary", 0):
        return Refusal("a rotary table lies along its width")
    head, sizes = f"h:{view.attr('num_heads')}", view.attr("qkv_hidden_sizes")
    d, e = sizes[0] // view.attr("num_heads"), sizes[2] // view.attr("num_heads")
    packed = f"[({head} d:{d}) + ({head} d) + ({head} e:{e})]"
    b = "!b" if view.has(3) else "b"  # a mask may take many forms
    operands = [f"x[{b},!s,i] w[i,{packed}]", f"bias[{packed}]" if view.has(2) else "_"]
    operands.append(operand("mask", ["!"] * view.rank(3)) if view.has(3) else "_")
    if view.has(5):
        names = zip(("b", head, "s", "s"), view.shape(5), strict=True)
        operands += ["_", operand("attention_bias", [name if size > 1 else "1" for name, size in names])]
    widths = "qkv_hidden_sizes[0] = |(h d)|; qkv_hidden_sizes[1] = |(h d)|; qkv_hidden_sizes[2] = |(h e)|"
    return f"{' '.join(operands)} -> y[b,s,(h e)]; num_heads = |h|; {widths}; over w d"


@rule("GroupQueryAttention", domain=_MICROSOFT, why="attention is taken over it, in heads of a fixed width")
def group_query_attention(view: View) -> str | Refusal:
    """Each of h key heads serves r query heads; their width is one for all, and the runtime asks for multiples of 8."""
    if any(view.has(i) for i in (3, 4, 12, 13)) or len([name for name in view.node.outputs if name]) > 1:
        return Refusal("its cache grows along its own axes")
    if view.has(14) or view.has(15):
        return Refusal("it normalizes its heads, which the runtime that proves a cut cannot do")
    heads, keys = view.attr("num_heads"), view.attr("kv_num_heads")
    head, count = (f"(h:{keys} r:{heads // keys})", "(h r)") if heads > keys else (f"h:{keys}", "h")
    query, key = f"({head} !d:{view.out_shape()[-1] // heads})", "(h !d)"
    packed = not view.has(1)
    length = view.shape(0)[1] if packed else view.shape(1)[1]
    operands = (
        [f"q[b,!s,[{query} + {key} + {key}]] _ _"] if packed else [f"q[b,!s,{query}] k[b,!t,{key}] v[b,!t,{key}]"]
    )
    operands += [_group_query_operand(view, i, head) if view.has(i) else "_" for i in range(3, len(view.node.inputs))]
    line = f"{' '.join(operands)} -> y[b,!s,({head} d)]; num_heads = |{count}|; kv_num_heads = |h|"
    total = view.ints(6)
    if total not in (None, (length,)):
        return Refusal("its total length is not that of its keys")
    held = f"; total[0] = |{'s' if packed else 't'}|" if total else ""
    return f"{line}{held}" if packed else f"{line}{held}; zero v"  # packed, queries of zero still average the values


def _group_query_operand(view: View, i: int, head: str) -> str:
    match i:
        case 5:
            return operand("lengths", ["b", *["!"] * (view.rank(i) - 1)])
        case 6:
            return "total"
        case 10:
            names = zip(("b", head, "!s", "!"), view.shape(i), strict=True)
            return operand("attention_bias", [name if size > 1 else "1" for name, size in names])
        case 11:
            return f"sink[{head}]"
    table = {7: "cos", 8: "sin", 9: "positions"}[i]
    return operand(table, ["!"] * view.rank(i))


@rule("RotaryEmbedding", why="a rotary table lies along it", zero="x", since=23)
def rotary_embedding(view: View) -> str | Refusal:
    """Turns pairs of a head's units by the position's angle."""
    heads = view.attr("num_heads", 0)
    return _rotary(view, heads, ("cos", "sin", "positions"))


@rule("RotaryEmbedding", why="a rotary table lies along it", zero="x", domain=_MICROSOFT)
def rotary_embedding_microsoft(view: View) -> str | Refusal:
    """As ONNX's, with the positions first; the number of heads may follow from the table's width."""
    width = 2 * view.shape(2)[-1]
    heads = view.attr("num_heads", 0) or (view.shape(0)[-1] // width if view.rank(0) == 3 else 0)
    return _rotary(view, heads, ("positions", "cos", "sin"))


def _rotary(view: View, heads: int, tables: tuple[str, ...]) -> str | Refusal:
    """Batch and positions pass only with what the tables hold of them, which has many forms."""
    present = [(i, name) for i, name in enumerate(tables, 1) if view.has(i)]
    rest = " ".join(operand(name, ["!"] * view.rank(i)) for i, name in present)
    if view.rank(0) == 4:
        return f"x[!b,h,!s,!d] {rest} -> y[b,h,s,d]"
    if not heads:
        return Refusal("it does not say how many heads it has")
    size = "; num_heads = |h|" if view.attr("num_heads", 0) else ""
    return f"x[!b,!s,(h:{heads} !d)] {rest} -> y[b,s,(h d)]{size}"
