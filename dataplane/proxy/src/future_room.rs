//! Room for one future after the other. What a request needs while it is on its way is large and gone when it is over; the room
//! stays, so that the next request allocates nothing.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Memory for futures of one kind, each of which is made of an `In` and yields an `Out`.
pub(crate) struct FutureRoom<In, Out>(Box<dyn Run<In, Out>>);

impl<In, Out> FutureRoom<In, Out> {
    /// An empty room for the futures that `make` makes.
    pub(crate) fn new<F: Future<Output = Out> + 'static>(make: impl Fn(In) -> F + 'static) -> Self {
        Self(Box::new(Occupied { make, future: Box::pin(None) }))
    }

    /// Makes a future and awaits it. The room is empty again afterwards.
    pub(crate) async fn run(&mut self, input: In) -> Out {
        self.0.start(input);
        poll_fn(|cx| self.0.poll(cx)).await
    }
}

/// Hides which future it is: that of an `async fn` has no name to store it by.
trait Run<In, Out> {
    fn start(&mut self, input: In);
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Out>;
}

struct Occupied<M, F> {
    make: M,
    future: Pin<Box<Option<F>>>,
}

impl<In, F: Future, M: Fn(In) -> F> Run<In, F::Output> for Occupied<M, F> {
    fn start(&mut self, input: In) {
        self.future.set(Some((self.make)(input)));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = self.future.as_mut().as_pin_mut() else { return Poll::Pending };
        let output = ready!(future.poll(cx));
        self.future.set(None);
        Poll::Ready(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[tokio::test]
    async fn each_future_is_another_one_and_leaves_nothing_behind() {
        let mut room = FutureRoom::new(async |held: Rc<u8>| {
            tokio::task::yield_now().await;
            *held
        });
        let held = Rc::new(7);
        for _ in 0..3 {
            assert_eq!(room.run(Rc::clone(&held)).await, 7);
            assert_eq!(Rc::strong_count(&held), 1);
        }
    }

    #[tokio::test]
    async fn what_was_given_up_ends_with_the_room_or_the_next_future() {
        let mut room = FutureRoom::new(async |held: Option<Rc<u8>>| match held {
            Some(_held) => std::future::pending().await,
            None => 1,
        });
        let held = Rc::new(7);
        {
            let given_up = std::pin::pin!(room.run(Some(Rc::clone(&held))));
            assert!(given_up.poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        }
        assert_eq!(Rc::strong_count(&held), 2);
        assert_eq!(room.run(None).await, 1);
        assert_eq!(Rc::strong_count(&held), 1);
    }
}
