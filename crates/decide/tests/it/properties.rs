//! Whatever the numbers: at every step enough pods are available and there are not too many, and it always ends.

use decide::availability::{Standing, standing};
use decide::rollout::Limits;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use objects::pods;
use proptest::prelude::*;
use simulation::{Applied, Controllers, Delays, Machine, Rng, World};

/// More rounds than any rollout of this size takes.
const MOST_ROUNDS: usize = 2000;

fn amount() -> impl Strategy<Value = IntOrString> {
    prop_oneof![(0..6).prop_map(IntOrString::Int), (0..=100).prop_map(|it| IntOrString::String(format!("{it}%")))]
}

fn declare(world: &mut World, replicas: i32, surge: &IntOrString, unavailable: &IntOrString, min_ready: i32) {
    world.declare(|spec| {
        spec.replicas = Some(replicas);
        spec.min_ready_seconds = Some(min_ready);
        let rolling = spec.strategy.get_or_insert_default().rolling_update.get_or_insert_default();
        rolling.max_surge = Some(surge.clone());
        rolling.max_unavailable = Some(unavailable.clone());
    });
}

fn limits(world: &World) -> Limits {
    Limits::of(world.deployment.spec.as_ref().unwrap())
}

fn active(world: &World) -> impl Iterator<Item = &Pod> {
    world.pods.values().filter(|pod| !pods::is_terminating(pod))
}

fn available(world: &World) -> i32 {
    let seconds = world.deployment.spec.as_ref().unwrap().min_ready_seconds.unwrap();
    let stands = |pod: &&Pod| standing(pod, seconds, &world.services, world.now) == Standing::Available;
    i32::try_from(active(world).filter(stands).count()).unwrap()
}

/// Applies everything that is decided; `check` sees the world after each step.
fn settle(world: &mut World, machine: &mut Machine, mut check: impl FnMut(&World)) {
    let mut controllers = Controllers::default();
    for _ in 0..MOST_ROUNDS {
        let mut steps: Vec<Applied> = Vec::new();
        controllers.look_at_deployment(world);
        steps.extend(std::iter::from_fn(|| controllers.take_rollout_step()));
        for step in steps.drain(..) {
            step.apply(world).unwrap();
            check(world);
        }
        let mut acted = false;
        for name in world.replica_sets.keys().cloned().collect::<Vec<_>>() {
            controllers.look_at_replica_set(world, &name);
            while let Some(step) = controllers.take_replicas_step() {
                acted = true;
                step.apply(world).unwrap();
                check(world);
            }
        }
        let look = controllers.next_look(world.now);
        match machine.next_due(world).into_iter().chain(look).min() {
            _ if acted => {}
            Some(due) => {
                world.now = world.now.max(due);
                machine.advance(world).unwrap();
            }
            None => return,
        }
    }
    panic!("it did not end in {MOST_ROUNDS} rounds");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_update_keeps_floor_and_ceiling_and_ends(
        replicas in 0..12_i32, surge in amount(), unavailable in amount(), min_ready in 0..4_i32, seed in any::<u64>(),
    ) {
        let mut world = World::new(replicas, "app:1");
        declare(&mut world, replicas, &surge, &unavailable, min_ready);
        let delays = Delays { start: (0, 3), ready: (0, 5), acknowledge: (0, 2), ..Delays::STEADY };
        let mut machine = Machine::new(delays, Rng::new(seed));
        settle(&mut world, &mut machine, |_| {});
        prop_assert_eq!(available(&world), replicas);

        world.set_image("app:2");
        settle(&mut world, &mut machine, |world| {
            let limits = limits(world);
            assert!(available(world) >= limits.floor(), "{} of {limits:?}", available(world));
            let total = i32::try_from(active(world).count()).unwrap();
            assert!(total <= limits.ceiling(), "{total} of {limits:?}");
        });
        prop_assert_eq!(available(&world), replicas);
        let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone();
        prop_assert!(world.pods.values().all(|pod| image(pod).as_deref() == Some("app:2")));
    }

    #[test]
    fn scaling_in_the_middle_of_an_update_ends_at_the_new_size(
        before in 1..10_i32, after in 0..10_i32, surge in amount(), unavailable in amount(), steps in 1..20_usize,
    ) {
        let mut world = World::new(before, "app:1");
        declare(&mut world, before, &surge, &unavailable, 0);
        let mut machine = Machine::new(Delays::STEADY, Rng::new(1));
        settle(&mut world, &mut machine, |_| {});
        world.set_image("app:2");
        let mut controllers = Controllers::default();
        for _ in 0..steps {
            controllers.look_at_deployment(&world);
            if let Some(step) = controllers.take_rollout_step() {
                step.apply(&mut world).unwrap();
            }
            world.now += SignedDuration::from_secs(1);
            machine.advance(&mut world).unwrap();
        }
        declare(&mut world, after, &surge, &unavailable, 0);
        settle(&mut world, &mut machine, |_| {});
        prop_assert_eq!(available(&world), after);
    }
}
