use consumer::Event;

#[derive(Event)]
#[event(aggregate = "User")]
union UserEvent {
    number: u8,
}

fn main() {}
