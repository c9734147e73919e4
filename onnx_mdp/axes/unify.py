"""Unification of axis terms: solves equations between axes as type inference solves them between types.

Two rules make it complete enough for tensor programs. A product meets a product from either end: equal outer
factors unify, else the larger is divided by the smaller. A sum meets a sum from the left: equal parts unify,
else the larger is cut. Dividing or cutting a factor binds it to the finer term, which splits it everywhere it
occurs. What cannot be aligned (6 = 2*3 against 3*2) raises `MisalignedError` once the rest of the equation is solved;
bindings stay, since each was implied by an equation on its own.

Each step binds a factor or removes a part, so one equation costs O(parts).
"""

from __future__ import annotations

from onnx_mdp.axes.terms import Factor, Prod, Sum, Term, addends, concat, factors, fresh, prod


class MisalignedError(ValueError):
    """Two terms of an equation have no common refinement.

    `terms` are the parts that it hangs on: where they stay whole, the rest of the equation holds.
    """

    def __init__(self, reason: str, *terms: Term) -> None:
        super().__init__(reason)
        self.terms = terms


class Unifier:
    """The bindings of one program; `unify` adds to them, `resolve` reads them."""

    def __init__(self) -> None:
        self._bindings: dict[Factor, Term] = {}

    def resolve(self, term: Term) -> Term:
        """The term with every bound factor replaced, in normal form."""
        if isinstance(term, Factor):
            return self._resolve_factor(term)
        parts = [self.resolve(part) for part in term.parts]
        if all(new is old for new, old in zip(parts, term.parts, strict=True)):
            return term
        return prod(parts) if isinstance(term, Prod) else concat(parts)

    def _resolve_factor(self, factor: Factor) -> Term:
        """Follows the bindings in a loop, as chains of factors grow with the depth of a network, and shortens them."""
        chain: list[Factor] = []
        term: Term = factor
        while isinstance(term, Factor) and term in self._bindings:
            chain.append(term)
            term = self._bindings[term]
        resolved = term if isinstance(term, Factor) else self.resolve(term)
        for link in chain:
            self._bindings[link] = resolved
        return resolved

    def unify(self, left: Term, right: Term) -> None:
        """Make both terms denote the same units.

        Raises:
            MisalignedError: the sizes differ, or the terms have no common refinement.
        """
        left, right = self.resolve(left), self.resolve(right)
        if left.size != right.size:
            raise MisalignedError(f"{left.size} positions against {right.size}", left, right)
        if left == right:
            return
        if isinstance(left, Factor):
            self._bindings[left] = right
        elif isinstance(right, Factor):
            self._bindings[right] = left
        elif isinstance(left, Sum) and isinstance(right, Sum):
            self._unify_sums(list(left.parts), list(right.parts))
        else:
            self._unify_products(list(factors(left)), list(factors(right)))

    def _unify_products(self, left: list[Term], right: list[Term]) -> None:
        failed: list[MisalignedError] = []
        while left and right:
            end = 0 if left[0].size == right[0].size else -1
            a, b = self.resolve(left.pop(end)), self.resolve(right.pop(end))
            try:
                if a.size == b.size:
                    self.unify(a, b)
                elif a.size > b.size:
                    left.append(self._divide(a, b))
                else:
                    right.append(self._divide(b, a))
            except MisalignedError as error:
                failed.append(error)
                if a.size != b.size:
                    error.terms = (a, b, *left, *right)
                    break
        _raise_all(failed)

    def _unify_sums(self, left: list[Term], right: list[Term]) -> None:
        while left and right:
            a, b = self.resolve(left.pop(0)), self.resolve(right.pop(0))
            try:
                if a.size == b.size:
                    self.unify(a, b)
                elif a.size > b.size:
                    head, tail = self._cut(a, b.size)
                    self.unify(head, b)
                    left.insert(0, tail)
                else:
                    head, tail = self._cut(b, a.size)
                    self.unify(head, a)
                    right.insert(0, tail)
            except MisalignedError as error:
                error.terms = (a, b, *left, *right)
                raise

    def _divide(self, term: Term, minor: Term) -> Term:
        """The quotient q of term = Prod(q, minor); each part of a sum is divided on its own."""
        quotients: list[Term] = []
        for part in addends(term):
            if part.size % minor.size:
                raise MisalignedError(f"{part.size} positions are no multiple of {minor.size}", term, minor)
            quotient = fresh(part.size // minor.size)
            self.unify(part, prod([quotient, minor]))
            quotients.append(quotient)
        return concat(self.resolve(q) for q in quotients)

    def _cut(self, term: Term, at: int) -> tuple[Term, Term]:
        """The term's first `at` positions and the rest."""
        if isinstance(term, Factor):
            head, tail = fresh(at), fresh(term.size - at)
            self._bindings[term] = concat([head, tail])
            return head, tail
        if isinstance(term, Sum):
            return self._cut_sum(list(term.parts), at)
        major, minor = term.parts[0], prod(term.parts[1:])
        if at % minor.size:
            raise MisalignedError(f"a cut at {at} falls inside units of {minor.size} positions", term)
        head, tail = self._cut(major, at // minor.size)
        return prod([head, minor]), prod([tail, minor])

    def _cut_sum(self, parts: list[Term], at: int) -> tuple[Term, Term]:
        heads: list[Term] = []
        while at >= parts[0].size:
            at -= parts[0].size
            heads.append(parts.pop(0))
            if not parts:
                break
        if at:
            head, tail = self._cut(parts.pop(0), at)
            heads.append(head)
            parts.insert(0, tail)
        return concat(heads), concat(parts)


def _raise_all(failed: list[MisalignedError]) -> None:
    if failed:
        raise MisalignedError(str(failed[0]), *(term for error in failed for term in error.terms)) from failed[0]
