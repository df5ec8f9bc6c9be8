use consumer::prelude::*;

struct NoEvent;

fn main() {
    let _ = NewEvent::typed(&NoEvent);
}
