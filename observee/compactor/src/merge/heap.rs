//! A binary heap with the tie-breaking of Go's `container/heap`.
//!
//! Which of two equal chunks comes first decides which replica's samples are kept, so to give Thanos' results exactly the moves have to be
//! the same: a new element rises while it is less; the last one takes the place of the first and sinks to its lesser child, the left one of equals.

#[derive(Debug)]
pub(super) struct GoHeap<T> {
    items: Vec<T>,
}

impl<T> GoHeap<T> {
    pub(super) fn new() -> Self {
        Self { items: Vec::new() }
    }

    pub(super) fn peek(&self) -> Option<&T> {
        self.items.first()
    }

    pub(super) fn push(&mut self, item: T, less: impl Fn(&T, &T) -> bool) {
        self.items.push(item);
        let mut child = self.items.len() - 1;
        while child > 0 {
            let parent = (child - 1) / 2;
            if !self.is_less(child, parent, &less) {
                break;
            }
            self.items.swap(parent, child);
            child = parent;
        }
    }

    pub(super) fn pop(&mut self, less: impl Fn(&T, &T) -> bool) -> Option<T> {
        let last = self.items.len().checked_sub(1)?;
        self.items.swap(0, last);
        let mut parent = 0;
        loop {
            let left = 2 * parent + 1;
            if left >= last {
                break;
            }
            let right = left + 1;
            let child = if right < last && self.is_less(right, left, &less) { right } else { left };
            if !self.is_less(child, parent, &less) {
                break;
            }
            self.items.swap(parent, child);
            parent = child;
        }
        self.items.pop()
    }

    fn is_less(&self, a: usize, b: usize, less: &impl Fn(&T, &T) -> bool) -> bool {
        match (self.items.get(a), self.items.get(b)) {
            (Some(a), Some(b)) => less(a, b),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_out_in_order_and_equal_ones_as_go_gives_them() {
        let less = |a: &(u32, char), b: &(u32, char)| a.0 < b.0;
        let mut heap = GoHeap::new();
        for item in [(2, 'a'), (1, 'b'), (2, 'c'), (1, 'd')] {
            heap.push(item, less);
        }
        let mut popped = Vec::new();
        while let Some(item) = heap.pop(less) {
            popped.push(item);
        }
        // By hand: [b d c a] -> b; [d a c] -> d; then c has taken the root, and a, its equal, stays beneath.
        assert_eq!(popped, [(1, 'b'), (1, 'd'), (2, 'c'), (2, 'a')]);
        assert_eq!(heap.peek(), None);
    }
}
