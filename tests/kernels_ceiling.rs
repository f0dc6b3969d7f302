//! The loops that measure a machine's limits: they count what they do and leave memory as it was.

use hybridq::kernels::KernelTable;

#[test]
fn operations_follow_the_rounds() {
    for table in KernelTable::available() {
        for ceiling in [KernelTable::ceiling_int8, KernelTable::ceiling_int8_widened, KernelTable::ceiling_f32] {
            let one = ceiling(table, 1);
            assert!(one >= 24, "{:?}: twelve chains at least, two operations a product", table.isa());
            assert_eq!((ceiling(table, 0), ceiling(table, 1000)), (0, 1000 * one));
        }
    }
}

#[test]
fn streams_change_nothing_and_stay_inside() {
    for table in KernelTable::available() {
        for n in [0, 1, 31, 63, 64, 65, 127, 255, 256, 257, 1000, 4099] {
            let before: Vec<u8> = (0..n + 3).map(|i| (i * 37 % 251) as u8).collect();
            let mut bytes = before.clone();
            table.ceiling_update(&mut bytes[1..n + 1]);
            assert_eq!(bytes, before);
            let sum = table.ceiling_read(&before[1..n + 1]);
            assert_eq!(sum, table.ceiling_read(&before[1..n + 1]));
            assert_eq!(sum == 0, before[1..n + 1].iter().all(|&byte| byte == 0));
        }
    }
}
