//! An aggregate may have hundreds of events: the checks stay below the compiler's limit.
#![allow(clippy::unused_async)]

use consumer::prelude::*;

macro_rules! shop_events {
    ($($event:ident)*) => {
        #[derive(Event)]
        #[event(aggregate = "Shop")]
        enum ShopEvent {
            $($event),*
        }
    };
}

shop_events! {
    Changed000 Changed001 Changed002 Changed003 Changed004 Changed005 Changed006 Changed007
    Changed008 Changed009 Changed010 Changed011 Changed012 Changed013 Changed014 Changed015
    Changed016 Changed017 Changed018 Changed019 Changed020 Changed021 Changed022 Changed023
    Changed024 Changed025 Changed026 Changed027 Changed028 Changed029 Changed030 Changed031
    Changed032 Changed033 Changed034 Changed035 Changed036 Changed037 Changed038 Changed039
    Changed040 Changed041 Changed042 Changed043 Changed044 Changed045 Changed046 Changed047
    Changed048 Changed049 Changed050 Changed051 Changed052 Changed053 Changed054 Changed055
    Changed056 Changed057 Changed058 Changed059 Changed060 Changed061 Changed062 Changed063
    Changed064 Changed065 Changed066 Changed067 Changed068 Changed069 Changed070 Changed071
    Changed072 Changed073 Changed074 Changed075 Changed076 Changed077 Changed078 Changed079
    Changed080 Changed081 Changed082 Changed083 Changed084 Changed085 Changed086 Changed087
    Changed088 Changed089 Changed090 Changed091 Changed092 Changed093 Changed094 Changed095
    Changed096 Changed097 Changed098 Changed099 Changed100 Changed101 Changed102 Changed103
    Changed104 Changed105 Changed106 Changed107 Changed108 Changed109 Changed110 Changed111
    Changed112 Changed113 Changed114 Changed115 Changed116 Changed117 Changed118 Changed119
    Changed120 Changed121 Changed122 Changed123 Changed124 Changed125 Changed126 Changed127
    Changed128 Changed129 Changed130 Changed131 Changed132 Changed133 Changed134 Changed135
    Changed136 Changed137 Changed138 Changed139 Changed140 Changed141 Changed142 Changed143
    Changed144 Changed145 Changed146 Changed147 Changed148 Changed149 Changed150 Changed151
    Changed152 Changed153 Changed154 Changed155 Changed156 Changed157 Changed158 Changed159
    Changed160 Changed161 Changed162 Changed163 Changed164 Changed165 Changed166 Changed167
    Changed168 Changed169 Changed170 Changed171 Changed172 Changed173 Changed174 Changed175
    Changed176 Changed177 Changed178 Changed179 Changed180 Changed181 Changed182 Changed183
    Changed184 Changed185 Changed186 Changed187 Changed188 Changed189 Changed190 Changed191
    Changed192 Changed193 Changed194 Changed195 Changed196 Changed197 Changed198 Changed199
    Changed200 Changed201 Changed202 Changed203 Changed204 Changed205 Changed206 Changed207
    Changed208 Changed209 Changed210 Changed211 Changed212 Changed213 Changed214 Changed215
    Changed216 Changed217 Changed218 Changed219 Changed220 Changed221 Changed222 Changed223
    Changed224 Changed225 Changed226 Changed227 Changed228 Changed229 Changed230 Changed231
    Changed232 Changed233 Changed234 Changed235 Changed236 Changed237 Changed238 Changed239
    Changed240 Changed241 Changed242 Changed243 Changed244 Changed245 Changed246 Changed247
    Changed248 Changed249 Changed250 Changed251 Changed252 Changed253 Changed254 Changed255
    Changed256 Changed257 Changed258 Changed259 Changed260 Changed261 Changed262 Changed263
    Changed264 Changed265 Changed266 Changed267 Changed268 Changed269 Changed270 Changed271
    Changed272 Changed273 Changed274 Changed275 Changed276 Changed277 Changed278 Changed279
    Changed280 Changed281 Changed282 Changed283 Changed284 Changed285 Changed286 Changed287
    Changed288 Changed289 Changed290 Changed291 Changed292 Changed293 Changed294 Changed295
    Changed296 Changed297 Changed298 Changed299 Changed300 Changed301 Changed302 Changed303
    Changed304 Changed305 Changed306 Changed307 Changed308 Changed309 Changed310 Changed311
    Changed312 Changed313 Changed314 Changed315 Changed316 Changed317 Changed318 Changed319
    Changed320 Changed321 Changed322 Changed323 Changed324 Changed325 Changed326 Changed327
    Changed328 Changed329 Changed330 Changed331 Changed332 Changed333 Changed334 Changed335
    Changed336 Changed337 Changed338 Changed339 Changed340 Changed341 Changed342 Changed343
    Changed344 Changed345 Changed346 Changed347 Changed348 Changed349 Changed350 Changed351
    Changed352 Changed353 Changed354 Changed355 Changed356 Changed357 Changed358 Changed359
    Changed360 Changed361 Changed362 Changed363 Changed364 Changed365 Changed366 Changed367
    Changed368 Changed369 Changed370 Changed371 Changed372 Changed373 Changed374 Changed375
    Changed376 Changed377 Changed378 Changed379 Changed380 Changed381 Changed382 Changed383
    Changed384 Changed385 Changed386 Changed387 Changed388 Changed389 Changed390 Changed391
    Changed392 Changed393 Changed394 Changed395 Changed396 Changed397 Changed398 Changed399
    Changed400 Changed401 Changed402 Changed403 Changed404 Changed405 Changed406 Changed407
    Changed408 Changed409 Changed410 Changed411 Changed412 Changed413 Changed414 Changed415
    Changed416 Changed417 Changed418 Changed419 Changed420 Changed421 Changed422 Changed423
    Changed424 Changed425 Changed426 Changed427 Changed428 Changed429 Changed430 Changed431
    Changed432 Changed433 Changed434 Changed435 Changed436 Changed437 Changed438 Changed439
    Changed440 Changed441 Changed442 Changed443 Changed444 Changed445 Changed446 Changed447
    Changed448 Changed449 Changed450 Changed451 Changed452 Changed453 Changed454 Changed455
    Changed456 Changed457 Changed458 Changed459 Changed460 Changed461 Changed462 Changed463
    Changed464 Changed465 Changed466 Changed467 Changed468 Changed469 Changed470 Changed471
    Changed472 Changed473 Changed474 Changed475 Changed476 Changed477 Changed478 Changed479
    Changed480 Changed481 Changed482 Changed483 Changed484 Changed485 Changed486 Changed487
    Changed488 Changed489 Changed490 Changed491 Changed492 Changed493 Changed494 Changed495
    Changed496 Changed497 Changed498 Changed499
}

struct Shop;

#[consumer(name = "shop", aggregates = [ShopEvent])]
impl Shop {
    #[on]
    async fn changed(&self, _event: ShopEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {
    assert_eq!(ShopEvent::EVENT_TYPES.len(), 500);
    assert_eq!(ShopEvent::Changed499.event_type(), "Changed499");
}
