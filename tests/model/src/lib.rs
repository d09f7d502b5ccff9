//! Both sides of a ring as loom runs them: in every interleaving, with every value that a load may see.
//!
//! The counting is the house's own file. What stands around it here is what crates/core/src/client/lane.rs
//! (`submit`, `collect`, `sleep`) and crates/core/src/serve/ring.rs (`turn`, `one`, `sleep`) do: a bell is a
//! packet on the socket, and whoever waits for one that never comes is a deadlock, which loom reports.

#[cfg(test)]
#[path = "../../../crates/core/src/ring/count.rs"]
mod count;

#[cfg(test)]
mod tests {
    use super::count::{Word, awake, may_sleep, must_ring};
    use loom::sync::atomic::{AtomicU32, Ordering, fence};
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    /// What breaks it.
    const NOTHING: u8 = 0;
    const NO_FENCE: u8 = 1;
    const NO_RELEASE: u8 = 2;
    const BLIND_SLEEP: u8 = 3;

    struct Counter<const BROKEN: u8>(AtomicU32);

    impl<const BROKEN: u8> Word for Counter<BROKEN> {
        fn load(&self) -> u32 {
            self.0.load(Ordering::Acquire)
        }

        fn store(&self, value: u32) {
            let order = if BROKEN == NO_RELEASE {
                Ordering::Relaxed
            } else {
                Ordering::Release
            };
            // loom puts a store between an exchange and what that has read, which nothing real does: an exchange of
            // the same order is a store that it cannot move there.
            self.0.swap(value, order);
        }

        fn swap(&self, value: u32) -> u32 {
            self.0.swap(value, Ordering::AcqRel)
        }

        fn fence() {
            if BROKEN != NO_FENCE {
                fence(Ordering::SeqCst);
            }
        }
    }

    /// Bells on their way to one side.
    #[derive(Default)]
    struct Bells {
        waiting: Mutex<u32>,
        more: Condvar,
    }

    impl Bells {
        fn ring(&self) {
            *self.waiting.lock().unwrap() += 1;
            self.more.notify_one();
        }

        /// Waits until the socket is readable, and takes what is there.
        fn wait(&self) {
            let mut waiting = self.waiting.lock().unwrap();
            while *waiting == 0 {
                waiting = self.more.wait(waiting).unwrap();
            }
            *waiting = 0;
        }

        /// Waits for one, and takes one.
        fn wait_for_one(&self) {
            let mut waiting = self.waiting.lock().unwrap();
            while *waiting == 0 {
                waiting = self.more.wait(waiting).unwrap();
            }
            *waiting -= 1;
        }
    }

    const MOST: usize = 3;

    struct Ring<const BROKEN: u8> {
        submitted: Counter<BROKEN>,
        completed: Counter<BROKEN>,
        client_sleeps: Counter<BROKEN>,
        worker_sleeps: Counter<BROKEN>,
        /// Words of the descriptions, without an order of their own.
        requests: [AtomicU32; MOST],
        answers: [AtomicU32; MOST],
        to_client: Bells,
        to_worker: Bells,
    }

    impl<const BROKEN: u8> Ring<BROKEN> {
        /// As the worker makes it: asleep.
        fn new() -> Arc<Ring<BROKEN>> {
            let counter = |value| Counter(AtomicU32::new(value));
            Arc::new(Ring {
                submitted: counter(0),
                completed: counter(0),
                client_sleeps: counter(0),
                worker_sleeps: counter(1),
                requests: std::array::from_fn(|_| AtomicU32::new(0)),
                answers: std::array::from_fn(|_| AtomicU32::new(0)),
                to_client: Bells::default(),
                to_worker: Bells::default(),
            })
        }

        fn submit(&self, number: u32) {
            self.requests[number as usize].store(100 + number, Ordering::Relaxed);
            self.submitted.store(number + 1);
            if must_ring(&self.worker_sleeps) {
                self.to_worker.ring();
            }
        }

        /// Takes what is there beyond `taken`: in its order, each once.
        fn collect(&self, taken: &mut u32) {
            let there = self.completed.load();
            assert!(there >= *taken, "it went back");
            while *taken < there {
                let answer = self.answers[*taken as usize].load(Ordering::Relaxed);
                assert_eq!(answer, 200 + *taken, "another's payload");
                *taken += 1;
            }
        }

        /// The client waits until `number` answers are there.
        fn collect_until(&self, number: u32, taken: &mut u32) {
            self.collect(taken);
            while *taken < number {
                let sleeps = if BROKEN == BLIND_SLEEP {
                    self.client_sleeps.store(1);
                    true
                } else {
                    may_sleep(&self.client_sleeps, &self.completed, *taken)
                };
                if sleeps || awake(&self.client_sleeps) {
                    self.to_client.wait_for_one();
                    awake(&self.client_sleeps);
                }
                self.collect(taken);
            }
        }

        fn answer(&self, number: u32) {
            let request = self.requests[number as usize].load(Ordering::Relaxed);
            assert_eq!(request, 100 + number, "another's payload");
            self.answers[number as usize].store(200 + number, Ordering::Relaxed);
            self.completed.store(number + 1);
            if must_ring(&self.client_sleeps) {
                self.to_client.ring();
            }
        }

        /// The worker's thread, until it has answered `number`.
        fn serve(&self, number: u32) {
            let mut taken = 0;
            self.to_worker.wait();
            self.worker_sleeps.store(0);
            while taken < number {
                while taken < self.submitted.load() {
                    self.answer(taken);
                    taken += 1;
                }
                if taken < number {
                    if may_sleep(&self.worker_sleeps, &self.submitted, taken) {
                        self.to_worker.wait();
                    }
                    self.worker_sleeps.store(0);
                }
            }
        }
    }

    fn run<const BROKEN: u8>(
        preemptions: Option<usize>,
        number: u32,
        client: impl Fn(&Ring<BROKEN>) + Send + Sync + Copy + 'static,
    ) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = preemptions;
        model.check(move || {
            let ring = Ring::<BROKEN>::new();
            let worker = {
                let ring = ring.clone();
                thread::spawn(move || ring.serve(number))
            };
            client(&ring);
            worker.join().unwrap();
        });
    }

    /// One after the other, each waited for.
    fn one_by_one<const BROKEN: u8>(ring: &Ring<BROKEN>, number: u32) {
        let mut taken = 0;
        for n in 0..number {
            ring.submit(n);
            ring.collect_until(n + 1, &mut taken);
        }
    }

    /// All of them, then the waiting.
    fn batch<const BROKEN: u8>(ring: &Ring<BROKEN>, number: u32) {
        let mut taken = 0;
        for n in 0..number {
            ring.submit(n);
        }
        ring.collect_until(number, &mut taken);
    }

    #[test]
    fn a_request_is_answered_in_every_interleaving() {
        run::<NOTHING>(None, 1, |ring| one_by_one(ring, 1));
    }

    #[test]
    fn so_are_two_one_after_the_other() {
        run::<NOTHING>(Some(4), 2, |ring| one_by_one(ring, 2));
    }

    #[test]
    fn so_are_three_at_once() {
        run::<NOTHING>(Some(3), 3, |ring| batch(ring, 3));
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn without_the_fence_somebody_sleeps_for_ever() {
        run::<NO_FENCE>(None, 1, |ring| one_by_one(ring, 1));
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn who_does_not_look_again_before_sleeping_sleeps_for_ever() {
        run::<BLIND_SLEEP>(None, 1, |ring| one_by_one(ring, 1));
    }

    #[test]
    #[should_panic(expected = "another's payload")]
    fn without_the_order_of_stores_a_payload_is_read_too_early() {
        run::<NO_RELEASE>(None, 1, |ring| one_by_one(ring, 1));
    }
}
