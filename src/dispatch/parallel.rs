//! Items of work shared out to a context's threads.
#![forbid(unsafe_code)]

use std::ops::{AddAssign, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::context::Context;

/// Most items that a thread takes at a time.
const MOST_ITEMS: usize = 16;

/// Turns at the items that a thread has, at least: threads that were held up end with the others.
const TURNS: usize = 4;

/// How long a thread looks for work, or for another's end, before it sleeps: being woken takes tens of microseconds, and
/// what a step hands out takes no more than some hundreds.
const STAY_AWAKE: Duration = Duration::from_millis(1);

/// Turns in place that take about a microsecond.
const SPINS: usize = 64;

/// Results that a sum keeps on the stack: a few, as most have, or many.
const FEW: usize = 64;
const MANY: usize = 2048;

impl Context {
    /// Calls `work` with each of `items` (chunks of slices, zipped or numbered as needed) on the context's threads. A result
    /// must not depend on who gets which. Half of the threads go through the items from the front, half from the back: of
    /// two, each meets again what its caches hold from the call before.
    pub fn for_each<I>(&self, items: I, work: impl Fn(I::Item) + Sync)
    where
        I: ExactSizeIterator + DoubleEndedIterator + Send,
    {
        let threads = self.threads().min(items.len());
        let items = Mutex::new(items);
        // Through a pointer: one copy of the loop for both cases below.
        let share: &(dyn Fn(usize) + Sync) = &|thread: usize| {
            loop {
                let mut taken = [const { None }; MOST_ITEMS];
                let mut items = items.lock().unwrap_or_else(PoisonError::into_inner);
                let count = items.len().div_ceil(TURNS * threads.max(1)).min(MOST_ITEMS);
                if count == 0 {
                    return;
                }
                if thread.is_multiple_of(2) {
                    taken[..count].iter_mut().for_each(|taken| *taken = items.next());
                } else {
                    taken[..count].iter_mut().rev().for_each(|taken| *taken = items.next_back());
                }
                drop(items);
                taken.into_iter().map_while(|item| item).for_each(&work);
            }
        };
        if threads < 2 { share(0) } else { self.share_out(threads, share) }
    }

    /// As [`Context::for_each`]; gives the results in the order of the items.
    pub fn map<I, R>(&self, items: I, work: impl Fn(I::Item) -> R + Sync) -> Vec<R>
    where
        I: ExactSizeIterator + DoubleEndedIterator + Send,
        R: Send,
    {
        let mut results: Vec<Option<R>> = std::iter::repeat_with(|| None).take(items.len()).collect();
        self.for_each(items.zip(&mut results), |(item, result)| *result = Some(work(item)));
        results.into_iter().map(|result| result.expect("every item was worked on")).collect()
    }

    /// The results of `work`, added up in the order of the items. Nothing is allocated for up to 2,048 items.
    pub fn sum<I, R>(&self, items: I, work: impl Fn(I::Item) -> R + Sync) -> R
    where
        I: ExactSizeIterator + DoubleEndedIterator + Send,
        R: Default + AddAssign + Send,
    {
        self.sum_beginning_at(false, items, work)
    }

    /// [`Context::sum`]; with `end` the work begins at the last item.
    pub(super) fn sum_beginning_at<I, R>(&self, end: bool, items: I, work: impl Fn(I::Item) -> R + Sync) -> R
    where
        I: ExactSizeIterator + DoubleEndedIterator + Send,
        R: Default + AddAssign + Send,
    {
        let len = items.len();
        if len <= FEW {
            self.sum_into(end, items, &mut [const { None }; FEW], work)
        } else if len <= MANY {
            self.sum_into(end, items, &mut [const { None }; MANY], work)
        } else {
            self.sum_into(end, items, &mut Vec::from_iter(std::iter::repeat_with(|| None).take(len)), work)
        }
    }

    #[inline(never)]
    fn sum_into<I, R>(&self, end: bool, items: I, results: &mut [Option<R>], work: impl Fn(I::Item) -> R + Sync) -> R
    where
        I: ExactSizeIterator + DoubleEndedIterator + Send,
        R: Default + AddAssign + Send,
    {
        let work = |(item, result): (I::Item, &mut Option<R>)| *result = Some(work(item));
        let pairs = items.zip(&mut *results);
        if end {
            self.for_each(pairs.rev(), work)
        } else {
            self.for_each(pairs, work)
        }
        results.iter_mut().map_while(Option::take).fold(R::default(), |mut sum, result| {
            sum += result;
            sum
        })
    }

    /// [`Context::for_each`] where `parallel`, else all on the calling thread.
    pub(super) fn for_each_if<I>(&self, parallel: bool, items: I, work: impl Fn(I::Item) + Sync)
    where
        I: ExactSizeIterator + DoubleEndedIterator + Send,
    {
        if parallel { self.for_each(items, work) } else { items.for_each(work) }
    }
}

/// Does `own` while a thread of `pool` does `theirs`. The caller, which is none of those threads, stays awake for the end.
pub(super) fn beside(pool: &rayon::ThreadPool, own: impl FnOnce(), theirs: impl FnOnce() + Send) {
    let ended = AtomicBool::new(false);
    pool.in_place_scope(|scope| {
        scope.spawn(|_| {
            let _at_the_end = Raise(&ended);
            theirs();
        });
        own();
        let start = Instant::now();
        while !ended.load(Ordering::Relaxed) && start.elapsed() < STAY_AWAKE {
            std::thread::yield_now();
        }
        // What the scope itself waits for follows the flag by some instructions; it would sleep at once.
        (0..SPINS).for_each(|_| std::hint::spin_loop());
    });
}

/// Calls `share` with each of `threads`, at once if as many are free. Not generic: one instance serves all callers.
pub(super) fn spread(threads: Range<usize>, share: &(dyn Fn(usize) + Sync)) {
    if threads.len() < 2 {
        return share(threads.start);
    }
    let middle = threads.start + threads.len() / 2;
    join(|| spread(threads.start..middle, share), || spread(middle..threads.end, share));
}

/// `rayon::join`, of which the caller stays awake for the end of a second part that another thread has begun.
fn join(first: impl FnOnce() + Send, second: impl FnOnce() + Send) {
    let (begun, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let first = || {
        first();
        if begun.load(Ordering::Relaxed) {
            work_until(&ended);
        }
    };
    let second = || {
        begun.store(true, Ordering::Relaxed);
        let _at_the_end = Raise(&ended);
        second();
    };
    rayon::join(first, second);
}

/// Runs `work` on the calling thread, one of a pool of `threads`, while the others stay awake for what it hands out.
pub(super) fn with_helpers(threads: usize, work: &mut (dyn FnMut() + Send)) {
    let (work, ended) = (Mutex::new(work), AtomicBool::new(false));
    let caller = rayon::current_thread_index();
    spread(0..threads, &|thread| {
        if thread > 0 {
            // The caller may come across a helper's part while it waits for another in the midst of its work.
            if rayon::current_thread_index() != caller {
                work_until(&ended);
            }
            return;
        }
        let _at_the_end = Raise(&ended);
        work.lock().expect("one thread takes it, once")();
    });
}

/// Sets the flag when dropped, after a panic too.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does what others have handed out until `ended`, or until there has been nothing for [`STAY_AWAKE`]. The flag orders
/// nothing: what it stands for is waited for again by `rayon::join`.
#[inline(never)]
fn work_until(ended: &AtomicBool) {
    let mut idle = Instant::now();
    while !ended.load(Ordering::Relaxed) {
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            idle = Instant::now();
        } else if idle.elapsed() > STAY_AWAKE {
            return;
        } else {
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::context::ContextOptions;
    use super::*;

    #[test]
    fn every_item_once_and_results_in_order() {
        for threads in [1, 2, 3, 8] {
            let context = Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap();
            for len in [0, 1, 2, 7, 63, 64, 65, 10_000] {
                let mut seen = vec![0; len];
                context.for_each(seen.iter_mut().enumerate(), |(index, seen)| *seen += index + 1);
                assert!(
                    seen.iter().enumerate().all(|(index, &seen)| seen == index + 1),
                    "{threads} threads, {len} items"
                );
                // In order: these sums of floats depend on it.
                let expected = (0..len).fold(0.0, |sum, index| sum + 1.0 / (1.0 + index as f64));
                for end in [false, true] {
                    let found: f64 = context.sum_beginning_at(end, 0..len, |index| 1.0 / (1.0 + index as f64));
                    assert_eq!(found, expected);
                }
                let squares = context.map(0..len, |index| index * index);
                assert!(squares.iter().enumerate().all(|(index, &square)| square == index * index));
            }
            // Work within work.
            let sums = context.map([10, 20, 30].iter(), |&n| context.map(0..n, |x| x).into_iter().sum::<usize>());
            assert_eq!(sums, [45, 190, 435]);
        }
    }

    #[test]
    fn many_callers_at_once() {
        let context = Context::new(ContextOptions { threads: Some(3), isa: None }).unwrap();
        let other = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let squares = &|n: usize| context.map(0..n, |index| index * index).into_iter().sum::<usize>();
        std::thread::scope(|scope| {
            for n in [100, 200, 300, 400] {
                let expected: usize = (0..n).map(|index| index * index).sum();
                scope.spawn(move || (0..50).for_each(|_| assert_eq!(squares(n), expected)));
            }
            // A thread of another pool is outside, too.
            other.install(|| assert_eq!(squares(100), 328_350));
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_threads_live_on() {
        let context = Context::new(ContextOptions { threads: Some(2), isa: None }).unwrap();
        let failing = || context.for_each(0..100, |index| assert!(index != 50, "item 50"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(failing)).is_err());
        assert_eq!(context.map(0..3, |index| index), [0, 1, 2]);
    }
}
